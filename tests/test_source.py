"""Which code ran: what a digest sees, and what someone may try so that a record names a commit that did not run."""

import importlib.util
import json
import marshal
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner.base.errors import InputError, StoreError
from runner.base.places import running_package
from runner.cli.main import main
from runner.fleet.archive import pack_code, unpack
from runner.record import source as source_module
from runner.record.code import code_state
from runner.record.commits import History
from runner.record.gate import gate
from runner.record.model import Code, Record, RunbookRef
from runner.record.source import commit_digests, compiled_as_written, folder_digest
from runner.record.stamp import Stamp
from runner.record.store import Store
from tests.evidence_samples import record
from tests.evidence_samples import step as a_step
from tests.test_cli import step, write_entry

ROOT = Path(__file__).parents[1]
ENTRY = RunbookRef(id="entry", number=1, title="An entry")
IGNORED = "*.so\n*.pth\n__pycache__/\n*.pyc\n"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def committed(root: Path) -> Path:
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "runner" / "deep").mkdir(parents=True)
    (root / "runbooks").mkdir()
    (root / "docs").mkdir()
    (root / ".gitignore").write_text(IGNORED)
    (root / "runner" / "__init__.py").write_text("")
    (root / "runner" / "a.py").write_text("ANSWER = 42\n")
    (root / "runner" / "a-b.txt").write_bytes(b"\x00\xff\r\n")
    (root / "runner" / "deep" / "über.txt").write_text("ü")
    (root / "runner" / "run.sh").write_text("true\n")
    (root / "runner" / "run.sh").chmod(0o755)
    (root / "runner" / "link").symlink_to("a.py")
    (root / "runbooks" / "entry.md").write_text("An entry\n")
    (root / "docs" / "a.txt").write_text("docs")
    return committed(root)


def state(root: Path) -> Code:
    return code_state(root / "runner", root / "runbooks")


def compile_(root: Path, source: str = "ANSWER = 42\n", *, hashed: bool = False) -> Path:
    """Put a compiled file of `source` where Python looks for that of `runner/a.py`, as Python would write it."""
    path = root / "runner" / "a.py"
    cached = Path(importlib.util.cache_from_source(str(path)))
    cached.parent.mkdir(exist_ok=True)
    stat = path.stat()
    check = int(stat.st_mtime).to_bytes(4, "little") + stat.st_size.to_bytes(4, "little")
    flags = b"\x01\0\0\0" if hashed else b"\0\0\0\0"
    code = marshal.dumps(compile(source, str(path), "exec"))
    cached.write_bytes(importlib.util.MAGIC_NUMBER + flags + (bytes(8) if hashed else check) + code)
    return cached


def test_a_clean_checkout_names_its_commit_and_has_its_digests(checkout: Path) -> None:
    found = state(checkout)
    held = commit_digests(checkout, git(checkout, "rev-parse", "HEAD"))
    assert held is not None
    assert (found.commit, found.dirty) == (git(checkout, "rev-parse", "HEAD"), False)
    assert (found.package, found.entries) == (held.package, held.entries)
    assert found.package != found.entries


def an_ignored_extension(root: Path) -> None:
    # Python imports it in preference to a.py; `git status` does not list it.
    (root / "runner" / "a.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")


def an_excluded_module(root: Path) -> None:
    (root / ".git" / "info" / "exclude").write_text("hidden.py\n")
    (root / "runner" / "hidden.py").write_text("ANSWER = 43\n")


def a_change_marked_as_unchanged(root: Path) -> None:
    git(root, "update-index", "--assume-unchanged", "runner/a.py")
    (root / "runner" / "a.py").write_text("ANSWER = 43\n")


def a_change_out_of_a_sparse_checkout(root: Path) -> None:
    git(root, "update-index", "--skip-worktree", "runner/a.py")
    (root / "runner" / "a.py").write_text("ANSWER = 43\n")


def a_link_in_place_of_a_file(root: Path) -> None:
    elsewhere = root.parent / "elsewhere.py"
    (root / "runner" / "a.py").rename(elsewhere)
    (root / "runner" / "a.py").symlink_to(elsewhere)


def a_link_in_place_of_a_folder(root: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    (root / "runner" / "deep").rename(elsewhere)
    (root / "runner" / "deep").symlink_to(elsewhere)


def a_link_that_points_elsewhere(root: Path) -> None:
    (root / "runner" / "link").unlink()
    (root / "runner" / "link").symlink_to("/tmp/a.py")


def a_compiled_module_without_source(root: Path) -> None:
    (root / "runner" / "b.pyc").write_bytes(b"anything")


def a_module_among_compiled_files(root: Path) -> None:
    (root / "runner" / "__pycache__").mkdir()
    (root / "runner" / "__pycache__" / "b.py").write_text("ANSWER = 43\n")


def a_renamed_file(root: Path) -> None:
    (root / "runner" / "a.py").rename(root / "runner" / "b.py")


def a_changed_file(root: Path) -> None:
    (root / "runner" / "a.py").write_text("ANSWER = 43\n")


def a_missing_file(root: Path) -> None:
    (root / "runner" / "a.py").unlink()


def a_pipe(root: Path) -> None:
    os.mkfifo(root / "runner" / "pipe")


def a_staged_change(root: Path) -> None:
    a_changed_file(root)
    git(root, "add", "-A")


CHANGES = [
    an_ignored_extension,
    an_excluded_module,
    a_change_marked_as_unchanged,
    a_change_out_of_a_sparse_checkout,
    a_link_in_place_of_a_file,
    a_link_in_place_of_a_folder,
    a_link_that_points_elsewhere,
    a_compiled_module_without_source,
    a_module_among_compiled_files,
    a_renamed_file,
    a_changed_file,
    a_missing_file,
    a_pipe,
    a_staged_change,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_differs_from_the_commit_is_dirty_and_changes_the_digest(
    checkout: Path, change: Callable[[Path], None]
) -> None:
    before = state(checkout)
    change(checkout)
    after = state(checkout)
    assert (after.commit, after.dirty) == (before.commit, True)
    assert after.package != before.package
    assert after.entries == before.entries


def test_a_changed_entry_is_dirty_and_changes_the_digest_of_entries_alone(checkout: Path) -> None:
    before = state(checkout)
    (checkout / "runbooks" / "new.md").write_text("new")
    after = state(checkout)
    assert after.dirty is True
    assert after.entries != before.entries
    assert after.package == before.package


def test_a_change_elsewhere_does_not_count(checkout: Path) -> None:
    before = state(checkout)
    (checkout / "docs" / "a.txt").write_text("changed")
    (checkout / "site_data").mkdir()
    (checkout / "site_data" / "x.json").write_text("{}")
    assert state(checkout) == before


def test_a_file_that_cannot_be_read_is_no_file_of_the_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: bytes, _mode: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(source_module, "open", refuse, raising=False)
    assert state(checkout).dirty is True


def test_files_that_python_compiled_do_not_count(checkout: Path) -> None:
    before = state(checkout)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(checkout / "runner")], check=True)
    assert list(checkout.rglob("*.pyc"))
    assert state(checkout) == before


@pytest.mark.parametrize("hashed", [False, True])
def test_a_compiled_file_that_is_not_its_source_is_dirty(checkout: Path, hashed: bool) -> None:
    compile_(checkout, "ANSWER = 43\n", hashed=hashed)
    program = "import runner.a; print(runner.a.ANSWER)"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert said.stdout == "43\n", "this Python runs what the compiled file says"
    assert not compiled_as_written(checkout / "runner")
    assert state(checkout).dirty is True
    compile_(checkout, hashed=hashed)
    assert state(checkout).dirty is False


@pytest.mark.parametrize("optimised", ["", "1", "2"])
def test_a_compiled_file_that_python_would_not_load_does_no_harm(checkout: Path, optimised: str) -> None:
    cached = compile_(checkout, "ANSWER = 43\n")
    os.utime(checkout / "runner" / "a.py", (1, 1))
    assert state(checkout).dirty is False
    cached.write_bytes(b"cut")
    cached.rename(importlib.util.cache_from_source(str(checkout / "runner" / "a.py"), optimization=optimised))
    assert state(checkout).dirty is False


def test_rubbish_in_place_of_compiled_code_is_dirty(checkout: Path) -> None:
    cached = compile_(checkout)
    cached.write_bytes(cached.read_bytes()[:20])
    assert state(checkout).dirty is True


def test_without_a_checkout_there_are_digests_and_no_commit(checkout: Path) -> None:
    before = state(checkout)
    (checkout / ".git").rename(checkout.parent / "gone")
    found = state(checkout)
    assert (found.commit, found.dirty) == (None, None)
    assert (found.package, found.entries) == (before.package, before.entries)


def test_a_copy_inside_another_repository_does_not_take_its_commit(checkout: Path) -> None:
    shutil.copytree(checkout / "runner", checkout / "lib" / "runner", symlinks=True)
    found = code_state(checkout / "lib" / "runner", checkout / "runbooks")
    assert (found.commit, found.dirty) == (None, None)


def test_a_repository_without_a_commit_names_none(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    git(checkout, "init", "-q")
    assert (state(checkout).commit, state(checkout).dirty) == (None, None)


def test_the_callers_git_variables_do_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(checkout)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert state(checkout) == before


def test_no_program_runs_that_the_settings_of_a_strangers_repository_name(
    checkout: Path, tmp_path: Path
) -> None:
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {ran}\n')
    program.chmod(0o755)
    hooks = checkout / "hooks"
    hooks.mkdir()
    for hook in ("post-index-change", "reference-transaction", "pre-auto-gc"):
        (hooks / hook).symlink_to(program)
    settings = {
        "core.repositoryformatversion": "1",
        "core.hooksPath": str(hooks),
        "core.pager": str(program),
        "core.sshCommand": str(program),
        "extensions.partialClone": "origin",
        "remote.origin.url": f"ext::{program}",
        "remote.origin.promisor": "true",
        "protocol.ext.allow": "always",
        # Last: from here on git itself runs it.
        "core.fsmonitor": str(program),
    }
    folder = checkout / "site_data"
    Store(folder).save(record(a_step("one")))
    git(checkout, "add", "-f", "-A")
    git(checkout, "commit", "-qm", "second")
    missing = git(checkout, "rev-parse", "HEAD:runner/a.py")
    (checkout / ".git" / "objects" / missing[:2] / missing[2:]).unlink()
    commit = git(checkout, "rev-parse", "HEAD")
    for name, value in settings.items():
        git(checkout, "config", name, value)
    ran.unlink(missing_ok=True)
    gate(Store(folder))
    assert commit_digests(checkout, commit) is None
    assert not ran.exists()
    git(checkout, "ls-files")
    assert ran.exists()


def test_a_repository_that_git_refuses_is_not_taken_for_none(checkout: Path) -> None:
    store = Store(checkout / "site_data")
    store.save(
        record(a_step("one"), code=Code(commit="1" * 40, dirty=False, package="a" * 64, entries="b" * 64))
    )
    assert any("is not in the history" in one.message for one in gate(store))
    (checkout / ".git" / "HEAD").write_text("nothing\n")
    with pytest.raises(StoreError, match="git cannot read"):
        gate(store)
    shutil.rmtree(checkout / ".git")
    assert not any("is not in the history" in one.message for one in gate(store))


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert state(checkout).commit is None


def test_a_borrowed_repository_does_not_make_changed_code_clean(checkout: Path) -> None:
    other = checkout.parent / "other"
    shutil.copytree(checkout / "runner", other / "runner", symlinks=True)
    (other / ".git").write_text(f"gitdir: {checkout / '.git'}\n")
    (other / "runner" / "a.py").write_text("ANSWER = 43\n")
    found = code_state(other / "runner", checkout.parent / "nothing")
    assert (found.commit, found.dirty) == (git(checkout, "rev-parse", "HEAD"), True)


def test_a_replaced_object_does_not_make_changed_code_clean(checkout: Path) -> None:
    blob = git(checkout, "rev-parse", "HEAD:runner/a.py")
    (checkout / "runner" / "a.py").write_text("ANSWER = 43\n")
    git(checkout, "replace", blob, git(checkout, "hash-object", "-w", "runner/a.py"))
    assert state(checkout).dirty is True


def test_entries_of_the_same_commit_are_clean_wherever_they_lie(checkout: Path) -> None:
    git(checkout.parent, "clone", "-q", str(checkout), "clone")
    found = code_state(checkout / "runner", checkout.parent / "clone" / "runbooks")
    assert found == state(checkout)


def test_entries_of_another_repository_are_not_those_of_the_commit(checkout: Path) -> None:
    other = checkout.parent / "other"
    other.mkdir()
    write_entry(other / "runbooks")
    committed(other)
    found = code_state(checkout / "runner", other / "runbooks")
    assert (found.commit, found.dirty) == (git(checkout, "rev-parse", "HEAD"), True)


def test_another_package_beside_the_entries_is_refused_because_steps_would_import_it(checkout: Path) -> None:
    git(checkout.parent, "clone", "-q", str(checkout), "clone")
    clone = checkout.parent / "clone"
    (clone / "runner" / "a.py").write_text("ANSWER = 43\n")
    with pytest.raises(
        InputError, match=f"steps would run {clone}/runner, which is not the package"
    ) as caught:
        code_state(checkout / "runner", clone / "runbooks")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["runner.py", "runner.so", "runner.pyc"])
def test_a_module_beside_the_entries_is_refused_as_a_package_is(checkout: Path, name: str) -> None:
    other = checkout.parent / "other"
    other.mkdir()
    write_entry(other / "runbooks")
    (other / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"steps would run {other}/{name}, which is not the package"):
        code_state(checkout / "runner", other / "runbooks")


def test_the_same_package_beside_the_entries_with_other_compiled_files_is_refused(checkout: Path) -> None:
    git(checkout.parent, "clone", "-q", str(checkout), "clone")
    clone = checkout.parent / "clone"
    (clone / "runner" / "b.py").write_text("ANSWER = 43\n")
    source = clone / "runner" / "a.py"
    compiled = Path(importlib.util.cache_from_source(str(source)))
    py_compile.compile(str(clone / "runner" / "b.py"), str(compiled), doraise=True)
    (clone / "runner" / "b.py").unlink()
    as_of = source.stat()
    data = bytearray(compiled.read_bytes())
    data[8:16] = int(as_of.st_mtime).to_bytes(4, "little") + as_of.st_size.to_bytes(4, "little")
    compiled.write_bytes(data)
    with pytest.raises(InputError, match="which is not the package that records them"):
        code_state(checkout / "runner", clone / "runbooks")


def test_what_is_no_commit_at_hand_has_no_digests(checkout: Path, tmp_path: Path) -> None:
    for name in ("0" * 40, git(checkout, "rev-parse", "HEAD^{tree}"), "HEAD; true"):
        assert commit_digests(checkout, name) is None
    away = History(tmp_path / "no" / "such" / "folder")
    assert away.commit(git(checkout, "rev-parse", "HEAD")) is None
    assert not away.lacks("0" * 40)


def test_a_shallow_clone_says_nothing_of_the_commits_that_it_lacks(checkout: Path) -> None:
    first = git(checkout, "rev-parse", "HEAD")
    a_changed_file(checkout)
    git(checkout, "commit", "-qam", "second")
    git(checkout.parent, "clone", "-q", "--depth", "1", f"file://{checkout}", "shallow")
    shallow = History(checkout.parent / "shallow" / "site_data")
    assert shallow.commit(first) is None
    assert not shallow.lacks(first)
    assert shallow.unchecked == {first}
    here = shallow.commit(git(checkout, "rev-parse", "HEAD"))
    assert here is not None
    assert here.digests == commit_digests(checkout, "HEAD")


@pytest.mark.parametrize("path", sorted((ROOT / "site_data").rglob("*.json")), ids=lambda path: path.stem)
def test_a_published_record_has_the_digests_of_its_commit_in_the_way_of_its_schema(path: Path) -> None:
    code = Store(path.parents[2]).load(path).code
    commit = History(path).commit(code.commit or "")
    if commit is None:
        pytest.skip("this clone does not have the commit")
    held = commit.digests
    now = (held.package, held.entries, None)
    assert (code.package, code.entries, code.digest) == (now if code.package else (None, None, held.both))


# The gate.


def messages(store: Store) -> list[str]:
    return [problem.message for problem in gate(store)]


def published(root: Path, code: Code) -> list[str]:
    """What the gate of this checkout says about a record with this code."""
    shutil.rmtree(root / "site_data", ignore_errors=True)
    store = Store(root / "site_data", secrets=())
    started = datetime.now(UTC)
    store.save(
        record(
            a_step("a"), code=code, runbook=ENTRY, started_at=started, ended_at=started + timedelta(minutes=1)
        )
    )
    return messages(store)


UNKNOWN = Code(commit="c" * 40, dirty=False, package="1" * 64, entries="2" * 64)


def test_the_gate_passes_the_commits_own_code_and_refuses_a_commit_that_is_not_in_the_history(
    checkout: Path,
) -> None:
    assert published(checkout, state(checkout)) == []
    (message,) = published(checkout, UNKNOWN)
    assert message.startswith("names commit cccccccccccc, which is not in the history of this repository; ")
    git(checkout, "checkout", "-q", "-b", "elsewhere")
    a_changed_file(checkout)
    git(checkout, "commit", "-qam", "never merged")
    aside = state(checkout)
    git(checkout, "checkout", "-q", "-")
    (message,) = published(checkout, aside)
    assert "which is not in the history of this repository; " in message


def test_in_a_shallow_clone_a_commit_out_of_reach_is_a_note_and_no_refusal(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = state(checkout)
    a_changed_file(checkout)
    git(checkout, "commit", "-qam", "second")
    git(checkout.parent, "clone", "-q", "--depth", "1", f"file://{checkout}", "shallow")
    shallow = checkout.parent / "shallow"
    assert published(shallow, first) == []
    assert main(["--data", str(shallow / "site_data"), "verify-data"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("verify-data: note: 1 commit cannot be checked in a shallow clone")
    assert (
        "which is not a commit id" in published(shallow, UNKNOWN.model_copy(update={"commit": "0" * 40}))[0]
    )


def test_a_data_folder_in_another_repository_says_nothing_of_the_commit(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("of another project")
    assert published(committed(tmp_path), UNKNOWN) == []


def test_a_run_before_its_commit_was_made_is_refused(checkout: Path) -> None:
    store = Store(checkout / "site_data", secrets=())
    started = datetime.now(UTC) - timedelta(hours=1)
    when = {"started_at": started, "ended_at": started + timedelta(minutes=1)}
    store.save(record(a_step("a"), code=state(checkout), runbook=ENTRY, **when))
    (message,) = messages(store)
    assert "was made; check the node's clock" in message


@pytest.mark.parametrize(("changed", "folder"), [("package", "runner/"), ("entries", "runbooks/")])
def test_the_gate_refuses_a_digest_that_is_not_the_commits(checkout: Path, changed: str, folder: str) -> None:
    claimed = state(checkout).model_copy(update={changed: "0" * 64})
    commit = (claimed.commit or "")[:12]
    assert published(checkout, claimed) == [
        f"says that its code is commit {commit}, but that commit has a different {folder}; run it again from a checkout"
    ]


def test_the_gate_refuses_the_one_digest_of_an_older_record_that_is_not_the_commits(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (message,) = published(checkout, Code(commit=commit, dirty=False, digest="0" * 16))
    assert "has a different runner/ or runbooks/" in message


def test_the_gate_says_in_which_folder_uncommitted_code_differs(checkout: Path) -> None:
    (checkout / "runbooks" / "new.md").write_text("new")
    (message,) = published(checkout, state(checkout))
    assert message.startswith("was taken with changes in runbooks/ that are not in its commit; ")


@pytest.mark.parametrize(
    "code",
    [
        {"commit": None, "dirty": None},
        {"commit": None, "dirty": None, "package": "0" * 64},
        {"commit": None, "dirty": None, "package": "0" * 64, "entries": "0" * 64, "digest": "0" * 16},
        {"commit": None, "dirty": None, "package": "dgx-07", "entries": "0" * 64},
    ],
)
def test_a_record_has_the_digests_of_its_schema_and_no_others(code: dict[str, str | None]) -> None:
    with pytest.raises(ValueError, match=r"needs digests of package and entries|pattern"):
        Code.model_validate(code)


# The attack itself, by the real program.


@pytest.fixture
def tampered(tmp_path: Path) -> Path:
    """A folder with a copy of this package that was changed."""
    folder = tmp_path / "tampered"
    shutil.copytree(ROOT / "runner", folder / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "runner" / "presets.py").open("a") as file:
        file.write("\n# tampered\n")
    return folder


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A clean repository with an entry."""
    folder = tmp_path / "clean"
    folder.mkdir()
    write_entry(folder / "runbooks", diagnose=step("look", "true"))
    return committed(folder)


def run(package: Path, entries: Path, data: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """Run the entry with the package that lies in a folder, and only that one."""
    words = ["--runbooks", str(entries), "--data", str(data), "run", "small", *more]
    return subprocess.run(
        [sys.executable, "-m", "runner.cli.main", *words],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def the_record(data: Path) -> Record:
    (path,) = Store(data).files()
    return Store(data).load(path)


def test_a_package_without_a_repository_does_not_take_the_commit_of_its_entries(
    tampered: Path, clean: Path
) -> None:
    data = clean / "site_data"
    done = run(tampered, clean / "runbooks", data)
    assert done.returncode == 0, done.stderr
    found = the_record(data).code
    assert (found.commit, found.dirty) == (None, None)
    assert found.package == folder_digest(tampered / "runner")
    assert found.entries == folder_digest(clean / "runbooks")
    assert messages(Store(data)) == ["names no commit; run it from a git checkout"]


def test_a_package_of_one_repository_with_entries_of_another_is_not_published(
    tampered: Path, clean: Path
) -> None:
    (tampered / "runbooks").mkdir()
    committed(tampered)
    data = tampered / "site_data"
    assert run(tampered, clean / "runbooks", data).returncode == 0
    assert the_record(data).code.commit == git(tampered, "rev-parse", "HEAD")
    (message,) = messages(Store(data))
    assert message.startswith("was taken with changes in runbooks/ that are not in its commit; ")


def test_a_tampered_package_cannot_run_entries_beside_the_true_one(tampered: Path, clean: Path) -> None:
    shutil.copytree(ROOT / "runner", clean / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    git(clean, "add", "-A")
    git(clean, "commit", "-qm", "With the package")
    done = run(tampered, clean / "runbooks", clean / "site_data")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "which is not the package that records them" in line
    assert not (clean / "site_data").exists()


def test_a_record_that_claims_the_commit_it_did_not_run_is_refused_at_home(
    tampered: Path, clean: Path
) -> None:
    shutil.copytree(ROOT / "runner", clean / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    git(clean, "add", "-A")
    git(clean, "commit", "-qm", "With the package")
    data = clean / "site_data"
    assert run(tampered, tampered.parent / "clean-entries", data).returncode == 2
    shutil.copytree(clean / "runbooks", tampered.parent / "elsewhere" / "runbooks")
    assert run(tampered, tampered.parent / "elsewhere" / "runbooks", data).returncode == 0
    (path,) = Store(data).files()
    content = json.loads(path.read_text())
    content["code"] |= {"commit": git(clean, "rev-parse", "HEAD"), "dirty": False}
    path.write_text(json.dumps(content))
    (message,) = messages(Store(data))
    assert "but that commit has a different runner/" in message


def test_code_that_changed_while_it_ran_is_not_that_of_the_commit(clean: Path) -> None:
    shutil.copytree(ROOT / "runner", clean / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    git(clean, "add", "-A")
    git(clean, "commit", "-qm", "With the package")
    (entry,) = (clean / "runbooks").glob("*.md")
    # The step changes the package that runs it, as somebody may who edits while an entry runs.
    edits = "```bash {#edit}\necho '# later' >> runner/base/units.py\n```\n\n```bash {#"
    entry.write_text(entry.read_text().replace("```bash {#", edits, 1))
    git(clean, "commit", "-qam", "With a step that edits")
    assert run(clean, clean / "runbooks", clean / "site_data").returncode == 0
    assert the_record(clean / "site_data").code.dirty is True


def test_the_commit_of_a_clean_checkout_passes_its_own_gate(clean: Path) -> None:
    shutil.copytree(ROOT / "runner", clean / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    git(clean, "add", "-A")
    git(clean, "commit", "-qm", "With the package")
    assert run(clean, clean / "runbooks", clean / "site_data").returncode == 0
    found = the_record(clean / "site_data").code
    assert (found.commit, found.dirty) == (git(clean, "rev-parse", "HEAD"), False)
    assert messages(Store(clean / "site_data")) == []


@pytest.mark.parametrize("changed", ["", "runner/sizing/presets.py", "runbooks/notes.txt"])
def test_a_campaigns_copy_on_a_node_has_the_commit_of_home_only_while_both_folders_are_the_same(
    clean: Path, tmp_path: Path, changed: str
) -> None:
    shutil.copytree(ROOT / "runner", clean / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    git(clean, "add", "-A")
    git(clean, "commit", "-qm", "With the package")
    home, node = state(clean), tmp_path / "node"
    unpack(pack_code(clean, clean / "runbooks"), node)
    if changed:
        with (node / changed).open("a") as file:
            file.write("\n# changed on the node\n")
    stamp = node / "stamp.json"
    stamp.write_text(Stamp(campaign="c", node_alias="node-abcdef", code=home).model_dump_json())
    done = run(node, node / "runbooks", tmp_path / "data", "--stamp", str(stamp))
    assert done.returncode == 0, done.stderr
    found = the_record(tmp_path / "data").code
    assert (found == home) == (not changed)
    assert (found.commit is None) == bool(changed)


def test_the_package_that_runs_is_the_one_that_was_imported() -> None:
    assert running_package() == Path(code_state.__code__.co_filename).parents[1]
