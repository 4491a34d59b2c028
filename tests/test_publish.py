import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import InputError, StoreError
from runner.cli.main import main
from runner.record.checkout import git_in
from runner.record.gate import gate, record_problems
from runner.record.model import Outcome, Record, StepStatus
from runner.record.publish import Incoming, Published, publish_records
from runner.record.store import Store
from tests.conftest import IDENTITY
from tests.evidence_samples import record, step

ROOT = Path(__file__).parents[1]
START = datetime(2026, 10, 1, tzinfo=UTC)


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def a_run(number: int, status: StepStatus = StepStatus.PASSED, **changes: object) -> Record:
    started = START + timedelta(days=number)
    times = {"started_at": started, "ended_at": started + timedelta(minutes=1)}
    found: dict[str, Any] = {"exit_status": 1, "reason": "found", "probe": "stale_env", "method_version": 1}
    told = found if status is StepStatus.SYMPTOM else {}
    one = step("a", status=status, **told)
    return record(one, **({"run_id": f"{number:012x}"} | times | changes))


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository with a README and one record."""
    seed = tmp_path / "seed"
    seed.mkdir()
    git(seed, "init", "--quiet", "--initial-branch", "main")
    (seed / "README.md").write_text("first\n")
    Store(seed / "site_data", secrets=()).save(a_run(0))
    git(seed, "add", ".")
    git(seed, "commit", "--quiet", "-m", "Begin")
    git(tmp_path, "clone", "--quiet", "--bare", "seed", "origin.git")
    return tmp_path / "origin.git"


Clone = Callable[[str], Path]


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Clone:
    def make(name: str) -> Path:
        git(tmp_path, "clone", "--quiet", str(origin), name)
        return tmp_path / name

    return make


def measured(tmp_path: Path, name: str, *records: Record) -> Store:
    store = Store(tmp_path / name, secrets=())
    for one in records:
        store.save(one)
    return store


def push(incoming: Store, checkout: Path) -> str | None:
    store = Store(checkout / "site_data", secrets=())
    return publish_records(
        [Incoming(incoming)], store, git_in(checkout), remote="origin", branch="main"
    ).commit


def run_ids(repository: Path) -> set[str]:
    names = git(repository, "ls-tree", "-r", "--name-only", "main", "site_data").splitlines()
    return {Path(name).stem.partition("-")[2] for name in names}


def test_two_nodes_that_publish_at_once_lose_nothing(tmp_path: Path, origin: Path, clone: Clone) -> None:
    one, other, person = clone("one"), clone("other"), clone("person")
    assert push(measured(tmp_path, "here", a_run(1), a_run(2)), one)
    (person / "README.md").write_text("second\n")
    git(person, "commit", "--quiet", "-am", "Say it better")
    git(person, "pull", "--quiet", "--rebase")
    git(person, "push", "--quiet")
    # Its clone is two commits behind.
    assert push(measured(tmp_path, "there", a_run(3)), other)
    assert run_ids(origin) == {f"{number:012x}" for number in range(4)}
    assert git(origin, "show", "main:README.md") == "second"
    for commit in git(origin, "log", "--format=%H", "--grep", "^Publish", "main").splitlines():
        names = git(origin, "show", "--format=", "--name-status", commit).splitlines()
        assert names
        assert all(name.startswith("A\tsite_data/") for name in names)


def test_a_push_between_fetch_and_push_is_met_by_trying_again(
    tmp_path: Path, origin: Path, clone: Clone
) -> None:
    one, other = clone("one"), clone("other")
    quicker = [measured(tmp_path, f"quick{number}", a_run(10 + number)) for number in range(3)]
    real = git_in(one)

    def slow(*words: str) -> str:
        if words[0] == "push" and quicker:
            push(quicker.pop(), other)
            git(other, "pull", "--quiet")
        return real(*words)

    store = Store(one / "site_data", secrets=())
    publish_records(
        [Incoming(measured(tmp_path, "mine", a_run(1)))], store, slow, remote="origin", branch="main"
    )
    assert run_ids(origin) == {f"{number:012x}" for number in (0, 1, 10, 11, 12)}


def test_the_same_file_pushed_by_another_with_other_content_is_refused_and_undone(
    tmp_path: Path, origin: Path, clone: Clone
) -> None:
    one, other = clone("one"), clone("other")
    push(measured(tmp_path, "here", a_run(1)), one)
    before = git(origin, "rev-parse", "main")
    mine = measured(tmp_path, "there", a_run(1, StepStatus.SYMPTOM, outcome=Outcome.SYMPTOM))
    with pytest.raises(StoreError, match="rebase failed"):
        push(mine, other)
    assert git(origin, "rev-parse", "main") == before
    assert git(other, "status", "--porcelain") == ""
    assert len(mine.files()) == 1


def test_a_push_that_is_not_allowed_is_undone_at_once(tmp_path: Path, origin: Path, clone: Clone) -> None:
    one = clone("one")
    hook = origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'protected branch' >&2\nexit 1\n")
    hook.chmod(0o755)
    head = git(one, "rev-parse", "HEAD")
    with pytest.raises(StoreError, match="push failed"):
        push(measured(tmp_path, "here", a_run(1)), one)
    assert git(one, "rev-parse", "HEAD") == head
    assert git(one, "status", "--porcelain") == ""


def test_what_another_publish_of_the_same_checkout_has_committed_is_not_undone(
    tmp_path: Path, clone: Clone
) -> None:
    here = clone("here")
    first, second = measured(tmp_path, "one", a_run(1)), measured(tmp_path, "two", a_run(2))
    plain = git_in(here)
    said: list[str] = []

    def interrupted(*words: str) -> str:
        if words[0] == "push":
            with pytest.raises(StoreError, match="another publish is running") as caught:
                publish_records(
                    [Incoming(second)],
                    Store(here / "site_data", secrets=()),
                    plain,
                    remote=None,
                    branch="main",
                )
            said.append(str(caught.value))
            raise StoreError("the line is down")
        return plain(*words)

    with pytest.raises(StoreError, match="the line is down"):
        publish_records(
            [Incoming(first)],
            Store(here / "site_data", secrets=()),
            interrupted,
            remote="origin",
            branch="main",
        )
    assert said
    publish_records(
        [Incoming(second)], Store(here / "site_data", secrets=()), plain, remote=None, branch="main"
    )
    assert a_run(2).run_id in run_ids(here)
    assert not git(here, "status", "--porcelain")


def test_only_records_are_committed_and_what_is_refused_stays_out(
    tmp_path: Path, origin: Path, clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    one = clone("one")
    (one / "notes.txt").write_text("mine, untracked")
    incoming = measured(tmp_path, "here", a_run(1), a_run(2, simulated=True))
    words = ["--data", str(one / "site_data"), "publish", str(incoming.root), "--push", "origin"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "was simulated" in said.err
    assert "publish: 1 new record in " in said.out
    assert run_ids(origin) == {"000000000000", "000000000001"}
    assert git(one, "status", "--porcelain") == "?? notes.txt"
    # Once more: there is nothing new.
    incoming.files()[1].unlink()
    assert main(words) == 0
    assert capsys.readouterr().out == "publish: 0 new records, 0 problems\n"


def test_a_checkout_with_changes_of_its_own_is_left_alone(tmp_path: Path, clone: Clone) -> None:
    one = clone("one")
    (one / "README.md").write_text("half done\n")
    with pytest.raises(StoreError, match="uncommitted changes"):
        push(measured(tmp_path, "here", a_run(1)), one)
    assert (one / "README.md").read_text() == "half done\n"


def test_the_data_folder_itself_is_no_source(clone: Clone) -> None:
    one = clone("one")
    with pytest.raises(InputError, match="record into another folder"):
        push(Store(one / "site_data"), one)


def test_a_verdict_that_turned_is_written_down_for_an_issue(tmp_path: Path, clone: Clone) -> None:
    one, turned = clone("one"), tmp_path / "out" / "turned.md"
    entries = tmp_path / "entries"
    entries.mkdir()
    (entries / "nvlink.md").write_text(ENTRY.replace("leftovers", "nvlink"), encoding="utf-8")
    words = ["--runbooks", str(entries), "--data", str(one / "site_data"), "publish", "--turned", str(turned)]
    measured(tmp_path, "bad", a_run(1, status=StepStatus.SYMPTOM, outcome=Outcome.SYMPTOM))
    assert main([*words, str(tmp_path / "bad")]) == 0
    assert turned.read_text().splitlines()[2] == (
        "* cpu-example-x86_64-2c nvlink: outcome healthy → symptom (run 000000000001); no other recorded differences"
    )
    measured(tmp_path, "still", a_run(2, status=StepStatus.SYMPTOM, outcome=Outcome.SYMPTOM))
    assert main([*words, str(tmp_path / "still")]) == 0
    assert not turned.exists()


ENTRY = """\
---
id: leftovers
number: 1
title: Leftovers
---

## Symptom

None.

## By hand

```bash
true
```

## Root cause

None.

## Diagnose

```bash {#look}
python -m runner.probes.stale_env
```

## Fix

Nothing.

## Verify

Nothing.
"""

# The noxfile of the clone itself, with the environment that the tests run in.
WRAPPER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("real_noxfile", {noxfile!r})
real = importlib.util.module_from_spec(spec)
sys.modules["real_noxfile"] = real
spec.loader.exec_module(real)
real._environment = lambda session, name, *extras: pathlib.Path({programs!r})
"""


class Node:
    """A clone of the project in which somebody works: its own sessions, its own code."""

    def __init__(self, folder: Path, origin: Path) -> None:
        git(folder.parent, "clone", "--quiet", str(origin), folder.name)
        self.folder, self.tools = folder, folder.parent / f"{folder.name}-tools"
        self.tools.mkdir()
        runbook = self.tools / "runbook"
        runbook.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runner.cli.main "$@"\n', encoding="utf-8")
        runbook.chmod(0o755)
        text = WRAPPER.format(noxfile=str(folder / "noxfile.py"), programs=str(self.tools))
        (self.tools / "noxfile.py").write_text(text, encoding="utf-8")

    def nox(self, *words: str) -> None:
        environment = IDENTITY | {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.folder),
            "HOME": str(self.tools),
            "RUNBOOK_LOCK": str(self.tools / "lock"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "nox", "-f", str(self.tools / "noxfile.py"), "-s", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.system
def test_the_sessions_of_the_refresh_measure_and_publish_twice_with_a_conflict_in_between(
    tmp_path: Path,
) -> None:
    seed, origin = tmp_path / "seed", tmp_path / "origin.git"
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():
        if name.startswith(("runner/", "noxfile.py")) and (ROOT / name).is_file():
            (seed / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, seed / name)
    (seed / "runbooks").mkdir()
    (seed / "runbooks" / "leftovers.md").write_text(ENTRY, encoding="utf-8")
    (seed / ".gitignore").write_text("__pycache__/\n/scratch/\n")
    git(seed, "init", "--quiet", "--initial-branch", "main")
    git(seed, "add", ".")
    git(seed, "commit", "--quiet", "-m", "Begin")
    git(tmp_path, "clone", "--quiet", "--bare", "seed", "origin.git")
    one, other = Node(tmp_path / "one", origin), Node(tmp_path / "other", origin)
    records = [tmp_path / "measured-one", tmp_path / "measured-other"]
    for node, measured_into in zip((one, other), records, strict=True):
        node.nox("campaign", "--", "--data", str(measured_into))
    one.nox("refresh", "--", str(records[0]), "--push", "origin", "--branch", "main")
    # Meanwhile somebody mends the entry: the second node is two commits behind.
    git(seed, "remote", "add", "origin", str(origin))
    git(seed, "pull", "--quiet", "origin", "main")
    (seed / "runbooks" / "leftovers.md").write_text(ENTRY.replace("None.", "Slow.", 1), encoding="utf-8")
    git(seed, "commit", "--quiet", "-am", "Say what is seen")
    git(seed, "push", "--quiet", "origin", "main")
    other.nox("refresh", "--", str(records[1]), "--push", "origin", "--branch", "main")
    published = git(origin, "ls-tree", "-r", "--name-only", "main", "site_data").splitlines()
    taken = {path.name: path.read_bytes() for folder in records for path in Store(folder).files()}
    assert {Path(name).name for name in published} == taken.keys()
    assert len(taken) == 2
    for name in published:
        stored = subprocess.run(
            ["git", "-C", str(origin), "show", f"main:{name}"], capture_output=True, check=True
        )
        assert stored.stdout == taken[Path(name).name]
    assert "Slow." in git(origin, "show", "main:runbooks/leftovers.md")
    assert git(other.folder, "status", "--porcelain") == ""


def publish_all(checkout: Path, *folders: Store, **classes: str) -> Published:
    incoming = [Incoming(one, classes.get(one.root.name)) for one in folders]
    store = Store(checkout / "site_data", secrets=())
    return publish_records(incoming, store, git_in(checkout), remote="origin", branch="main")


def refusals(done: Published) -> str:
    lines = [str(one) for one in done.refused]
    assert not [line for line in lines if "\n" in line]
    return "\n".join(lines)


def test_a_run_id_that_is_published_already_is_refused_alone(
    tmp_path: Path, origin: Path, clone: Clone
) -> None:
    again = a_run(7, run_id=f"{0:012x}")
    done = publish_all(clone("one"), measured(tmp_path, "here", a_run(1), again, a_run(2)))
    assert "has the run id of" in refusals(done)
    assert len(done.refused) == 1
    assert run_ids(origin) == {f"{number:012x}" for number in range(3)}


def test_a_run_id_that_stands_twice_among_new_records_is_published_once(
    tmp_path: Path, origin: Path, clone: Clone
) -> None:
    first, again = a_run(1), a_run(3, run_id=f"{1:012x}")
    done = publish_all(clone("one"), measured(tmp_path, "here", first, again, a_run(2)))
    assert len(done.refused) == 1
    assert len(done.records) == 2
    assert run_ids(origin) == {f"{number:012x}" for number in range(3)}


def test_the_same_run_from_two_nodes_is_published_once(tmp_path: Path, origin: Path, clone: Clone) -> None:
    done = publish_all(
        clone("one"), measured(tmp_path, "a", a_run(1)), measured(tmp_path, "b", a_run(1), a_run(2))
    )
    assert "is the same run as" in refusals(done)
    assert run_ids(origin) == {f"{number:012x}" for number in range(3)}


def test_with_every_record_refused_nothing_is_committed(tmp_path: Path, origin: Path, clone: Clone) -> None:
    again = a_run(7, run_id=f"{0:012x}")
    one = clone("one")
    done = publish_all(one, measured(tmp_path, "here", again))
    assert (done.records, done.commit) == ((), None)
    assert git(one, "status", "--porcelain") == ""


def test_a_defect_of_the_data_folder_itself_keeps_all_back_and_is_said(tmp_path: Path, clone: Clone) -> None:
    one = clone("one")
    (one / "site_data" / "notes.txt").write_text("mine")
    git(one, "add", ".")
    git(one, "commit", "--quiet", "-m", "Add a note")
    with pytest.raises(StoreError, match=r"does not pass the gate: .*notes\.txt"):
        publish_all(one, measured(tmp_path, "here", a_run(1), a_run(2)))
    assert git(one, "status", "--porcelain") == ""


@pytest.mark.parametrize("run_id", ["a" * 64, "run-1", "A1B2C3D4E5F6", "a1b2c3d4e5f", "--------------"])
def test_a_run_id_of_another_form_is_refused_in_one_line(tmp_path: Path, clone: Clone, run_id: str) -> None:
    here = measured(tmp_path, "here", a_run(1), a_run(2))
    file = here.files()[0]
    text = file.read_text().replace(f'"run_id": "{1:012x}"', f'"run_id": "{run_id}"')
    file.write_text(text)
    done = publish_all(clone("one"), here)
    assert re.search("run id of an invalid form|run_id: String should match", refusals(done))
    assert [one.run_id for one in done.records] == [f"{2:012x}"]


def test_a_run_id_of_240_characters_is_refused_in_one_line(
    tmp_path: Path, clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    here = measured(tmp_path, "here", a_run(1), a_run(2))
    file = here.files()[0]
    file.write_text(file.read_text().replace(f"{1:012x}", "a" * 240))
    assert main(["--data", str(clone("one") / "site_data"), "publish", str(here.root)]) == 1
    said = capsys.readouterr()
    assert "run_id: String should have at most 64 characters" in said.err
    assert len(said.err.splitlines()) == 1
    assert "publish: 1 new record" in said.out


@pytest.mark.parametrize("machine_class", ["../../x", "..", "/etc", "a/b", "x" * 300, "-rf", "a\nb", ""])
def test_no_record_leaves_the_data_folder(tmp_path: Path, clone: Clone, machine_class: str) -> None:
    here = measured(tmp_path, "here", a_run(1))
    file = here.files()[0]
    content = json.loads(file.read_text())
    content["machine"]["machine_class"] = machine_class
    file.write_text(json.dumps(content))
    before = {path for path in tmp_path.rglob("*") if ".git" not in path.parts}
    one = clone("one")
    done = publish_all(one, here)
    assert refusals(done)
    assert not done.records
    after = {
        path for path in tmp_path.rglob("*") if ".git" not in path.parts and one not in (path, *path.parents)
    }
    assert after == before


def test_a_node_publishes_its_own_class_alone(tmp_path: Path, origin: Path, clone: Clone) -> None:
    data = clone("one") / "site_data"
    downloaded = tmp_path / "downloaded"
    mine = a_run(1)
    measured(downloaded, f"records-{mine.machine.machine_class}", mine)
    measured(downloaded, "records-8xB200-180GB", a_run(2))
    assert main(["--data", str(data), "publish", str(downloaded), "--artifacts", "--push", "origin"]) == 1
    assert run_ids(origin) == {f"{number:012x}" for number in range(2)}
    words = ["--data", str(data), "publish", str(downloaded / "records-8xB200-180GB")]
    assert main([*words, "--class", "8xB200-180GB"]) == 1
    assert main([*words, "--class", mine.machine.machine_class]) == 0


def test_what_is_no_artifact_is_named(
    tmp_path: Path, clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    words = ["--data", str(clone("one") / "site_data"), "publish", str(downloaded), "--artifacts"]
    assert main(words) == 2
    assert "has no folder records-CLASS" in capsys.readouterr().err
    (downloaded / "records-x").symlink_to(tmp_path)
    assert main(words) == 2
    assert "is not a folder records-CLASS" in capsys.readouterr().err


def test_links_and_pipes_among_new_records_are_refused_and_not_opened(tmp_path: Path, clone: Clone) -> None:
    here = measured(tmp_path, "here", a_run(1))
    folder = here.files()[0].parent
    elsewhere = measured(tmp_path, "elsewhere", a_run(2))
    (folder / "a.json").symlink_to(elsewhere.files()[0])
    (folder / "b.json").symlink_to("/dev/zero")
    os.mkfifo(folder / "c.json")
    (folder / "d.json").mkdir()
    (here.root / "linked").symlink_to(elsewhere.root / elsewhere.files()[0].parts[-3])
    done = publish_all(clone("one"), here)
    assert len(done.refused) == 5
    assert refusals(done).count("is a symbolic link") == 3
    assert [one.run_id for one in done.records] == [f"{1:012x}"]


def test_a_link_in_the_checkout_leads_no_record_out_of_it(tmp_path: Path, clone: Clone) -> None:
    one, outside = clone("one"), tmp_path / "outside"
    outside.mkdir()
    mine = a_run(1)
    folder = one / "site_data" / mine.machine.machine_class
    shutil.rmtree(folder)
    folder.symlink_to(outside)
    git(one, "add", ".")
    git(one, "commit", "--quiet", "-m", "Add a link")
    with pytest.raises(StoreError, match="is a symbolic link"):
        publish_all(one, measured(tmp_path, "here", mine))
    assert not list(outside.iterdir())


def test_a_file_that_changes_after_it_was_checked_is_published_as_it_was_checked(
    tmp_path: Path, origin: Path, clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = measured(tmp_path, "here", a_run(1))
    file = here.files()[0]
    checked = file.read_bytes()

    def meanwhile(*words: object) -> Iterator[str]:
        file.write_text("{}")
        yield from record_problems(*words)  # type: ignore[arg-type]

    monkeypatch.setattr("runner.record.publish.record_problems", meanwhile)
    (one,) = publish_all(clone("one"), here).records
    assert one == a_run(1)
    name = git(origin, "ls-tree", "-r", "--name-only", "main", "site_data").splitlines()[-1]
    assert git(origin, "show", f"main:{name}").encode() + b"\n" == checked


@pytest.mark.parametrize("rule", ["*.json filter=other", "*.json working-tree-encoding=UTF-16"])
def test_a_filter_that_would_have_git_store_other_bytes_is_found(
    tmp_path: Path, origin: Path, clone: Clone, rule: str
) -> None:
    one = clone("one")
    (one / ".gitattributes").write_text(rule + "\n")
    git(one, "config", "filter.other.clean", "sed s/000000000001/000000000009/")
    git(one, "add", ".gitattributes")
    git(one, "commit", "--quiet", "-m", "Filter")
    with pytest.raises(StoreError, match=r"other bytes than were checked|git add failed"):
        publish_all(one, measured(tmp_path, "here", a_run(1)))
    assert run_ids(origin) == {f"{0:012x}"}
    assert git(one, "status", "--porcelain") == ""


def test_what_lies_beside_new_records_is_never_run_nor_taken(tmp_path: Path, clone: Clone) -> None:
    one, here = clone("one"), measured(tmp_path, "here", a_run(1))
    proof = tmp_path / "ran"
    git(here.root, "init", "--quiet")
    for hook in ("pre-commit", "post-commit", "post-checkout", "pre-push"):
        script = here.root / ".git" / "hooks" / hook
        script.write_text(f"#!/bin/sh\ntouch {proof}\n")
        script.chmod(0o755)
    (here.root / ".git" / "config").write_text(f"[core]\n\tfsmonitor = touch {proof}\n")
    (here.root / ".gitattributes").write_text("* filter=other\n")
    (here.root / "-o.json").write_text("{}")
    done = publish_all(one, here)
    assert len(done.records) == 1
    assert "-o.json" in refusals(done)
    assert not proof.exists()
    assert not (one / "site_data" / ".gitattributes").exists()


def test_another_repository_in_the_environment_is_not_the_one_that_is_meant(
    tmp_path: Path, origin: Path, clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = clone("one"), clone("other")
    for name in ("GIT_DIR", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(other / ".git"))
    monkeypatch.setenv("GIT_NAMESPACE", "elsewhere")
    monkeypatch.setenv("GIT_GLOB_PATHSPECS", "1")
    done = publish_all(one, measured(tmp_path, "here", a_run(1)))
    for name in ("GIT_DIR", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_GLOB_PATHSPECS"):
        monkeypatch.delenv(name)
    assert git(one, "rev-parse", "HEAD") == done.commit == git(origin, "rev-parse", "main")


@pytest.mark.parametrize(("remote", "branch"), [("--upload-pack=x", "main"), ("origin", "-d")])
def test_a_remote_or_branch_that_is_an_option_of_git_is_refused(
    tmp_path: Path, clone: Clone, remote: str, branch: str
) -> None:
    store = Store(clone("one") / "site_data", secrets=())
    here = [Incoming(measured(tmp_path, "here", a_run(1)))]
    with pytest.raises(InputError, match="an option of git"):
        publish_records(here, store, git_in(store.root.parent), remote=remote, branch=branch)


@pytest.mark.parametrize("kind", ["link", "submodule", "attributes"])
def test_what_git_carries_and_is_no_record_is_refused_whatever_the_disk_shows(
    tmp_path: Path, clone: Clone, kind: str
) -> None:
    one = clone("one")
    store = Store(one / "site_data", secrets=())
    if kind == "attributes":
        (store.root / ".gitattributes").write_text("* ident\n")
        git(one, "add", ".")
    else:
        mode = {"link": "120000", "submodule": "160000"}[kind]
        name = git(one, "rev-parse", "HEAD" if kind == "submodule" else "HEAD:README.md")
        git(one, "update-index", "--add", "--cacheinfo", f"{mode},{name},site_data/x")
    (line,) = [str(problem) for problem in gate(store)]
    assert {"link": "a symbolic link in git", "submodule": "a submodule in git", "attributes": "hidden file"}[
        kind
    ] in line
    (store.root / ".gitattributes").unlink(missing_ok=True)
    git(one, "reset", "--hard", "--quiet")
    assert gate(store) == ()
