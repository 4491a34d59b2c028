"""A program and everything that it starts, however it detaches itself, end with the context; other processes do not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from runner.base import processes
from runner.base.processes import Cleared, end_all, in_session, send, stat_of, with_mark
from runner.kit import children
from runner.kit.children import TOKEN, Child, ended_by_sigterm, without_launch
from tests.cluster import until

# A process of its own session that ignores SIGTERM, and a parent of it that does too.
STUBBORN = "trap '' TERM; setsid bash -c \"trap '' TERM; echo up; while :; do sleep 1; done\" & wait"


def started(folder: Path, script: str, grace_s: float = 0.1) -> Child:
    return Child(["bash", "-c", script], os.environ, folder / "output", grace_s)


def said(folder: Path, word: str) -> Callable[[], bool]:
    return lambda: word in (folder / "output").read_text()


def test_processes_that_left_the_session_and_ignore_sigterm_are_ended(tmp_path: Path) -> None:
    with started(tmp_path, STUBBORN) as child:
        until(said(tmp_path, "up"), "the script to be at work")
        assert len(child.alive()) >= 2
    assert child.cleared.ended >= 2
    assert child.cleared.left == ()
    assert child.alive() == []
    assert child.status == -signal.SIGKILL


def test_a_daemon_without_the_token_is_ended_with_the_program_that_started_it(tmp_path: Path) -> None:
    script = "env -i bash -c 'echo $$; exec sleep 1000' & wait"
    with started(tmp_path, script):
        until(said(tmp_path, "\n"), "its child to be at work")
        pid = int((tmp_path / "output").read_text())
    assert (one := stat_of(pid)) is None or not one.lives


def test_a_program_that_has_ended_leaves_nothing_and_its_status_is_known(tmp_path: Path) -> None:
    with started(tmp_path, "sleep 1000 & echo done; exit 7") as child:
        assert child.wait(400)
    assert (child.status, child.cleared.ended) == (7, 1)
    assert (tmp_path / "output").read_text() == "done\n"


def test_another_childs_processes_are_let_live(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], env=os.environ | {TOKEN: "a" * 32}) as other:
        with started(tmp_path, "true") as child:
            child.wait(400)
        assert child.cleared == Cleared(0)
        assert other.poll() is None
        other.kill()


def test_a_program_that_cannot_be_started_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Child(["no-such-program"], os.environ, tmp_path / "output"):
        pass


@pytest.mark.parametrize("within", ["stat_of", "end_all"], ids=["the start", "the end"])
def test_an_interrupt_leaves_nothing(within: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    child = started(tmp_path, "exec sleep 1000")
    monkeypatch.setattr(children, within, interrupted)
    with pytest.raises(KeyboardInterrupt), child:
        pass
    assert child.alive() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from runner.kit.children import Child, ended_by_sigterm\n"
        "with ended_by_sigterm(), Child(['bash', '-c', sys.argv[1]], os.environ, Path('output'), 0.1):\n"
        "    sys.stdin.read()"
    )
    mark = f"CHILDREN_TEST={tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-c", program, STUBBORN],
        cwd=tmp_path,
        env=os.environ | dict([mark.split("=")]) | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
    ) as process:
        until(lambda: (tmp_path / "output").exists() and said(tmp_path, "up")(), "the child to be at work")
        assert len(with_mark(mark)) >= 3
        process.send_signal(number)
        assert process.wait(400) == 128 + number
    assert with_mark(mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_handled_as_before_once_the_work_is_over(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with ended_by_sigterm():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_under_nohup_a_terminal_that_closes_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_sigterm():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("module", "name"), [(os, "pidfd_open"), (signal, "pidfd_send_signal")])
@pytest.mark.parametrize("pidfds", ["there", "refused", "absent"])
def test_no_signal_reaches_a_later_process_with_the_same_pid(
    module: ModuleType, name: str, pidfds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pidfds == "refused":
        # As in a sandbox that refuses them.
        monkeypatch.setattr(module, name, lambda *_: os.open("/nowhere", os.O_RDONLY))
    if pidfds == "absent":
        # As in a Python that was built on an old kernel.
        monkeypatch.delattr(module, name)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        stat = stat_of(process.pid)
        assert stat is not None
        earlier = replace(stat, started=stat.started - 1)
        send(earlier, signal.SIGKILL)
        assert in_session(earlier.pid, earlier.started) == []
        assert [one.pid for one in in_session(stat.pid, stat.started)] == [process.pid]
        assert process.poll() is None
        send(stat, signal.SIGKILL)
        assert process.wait(400) == -signal.SIGKILL


def test_processes_that_no_signal_ends_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "send", lambda _process, _number: None)
    here = stat_of(os.getpid())
    assert here is not None
    assert end_all(lambda: [here], grace_s=0.0, patience_s=0.0) == Cleared(0, (here,))


def test_children_are_found_on_a_kernel_that_does_not_list_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        monkeypatch.setattr(processes, "_LISTS_CHILDREN", False)
        assert process.pid in processes.descendants_of(os.getpid())
        process.kill()


def test_a_child_does_not_join_the_launch_of_its_parent() -> None:
    environment = {"RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "PATH": "/bin"}
    assert without_launch(environment) == {"PATH": "/bin"}
    assert without_launch(environment, ("LOCAL_RANK",)) == {"LOCAL_RANK": "1", "PATH": "/bin"}
