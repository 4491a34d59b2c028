import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.errors import InputError, StoreError
from runner.evidence.checkout import git_in
from runner.evidence.publish import Incoming, publish
from runner.evidence.record import Outcome, Record, StepStatus
from runner.evidence.store import Store
from tests.evidence_samples import record, step

ROOT = Path(__file__).parents[1]
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A Runner"), ("EMAIL", "runner@example.org"))
}
START = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def a_run(number: int, status: StepStatus = StepStatus.PASSED, **changes: object) -> Record:
    started = START + timedelta(days=number)
    times = {"started_at": started, "ended_at": started + timedelta(minutes=1)}
    return record(step("a", status=status), run_id=f"{number:012x}", **(times | changes))


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
    return publish([Incoming(incoming)], store, git_in(checkout), remote="origin", branch="main").commit


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
    publish([Incoming(measured(tmp_path, "mine", a_run(1)))], store, slow, remote="origin", branch="main")
    assert run_ids(origin) == {f"{number:012x}" for number in (0, 1, 10, 11, 12)}


def test_the_same_file_pushed_by_another_with_other_content_is_refused_and_undone(
    tmp_path: Path, origin: Path, clone: Clone
) -> None:
    one, other = clone("one"), clone("other")
    push(measured(tmp_path, "here", a_run(1)), one)
    before = git(origin, "rev-parse", "main")
    mine = measured(tmp_path, "there", a_run(1, outcome=Outcome.SYMPTOM))
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
    with pytest.raises(StoreError, match="changes of its own"):
        push(measured(tmp_path, "here", a_run(1)), one)
    assert (one / "README.md").read_text() == "half done\n"


def test_the_data_folder_itself_is_no_source(clone: Clone) -> None:
    one = clone("one")
    with pytest.raises(InputError, match="measure into another one"):
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
        "* cpu-example-x86_64-2c nvlink: outcome healthy → symptom (run 000000000001); nothing else recorded differs"
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
