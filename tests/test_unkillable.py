"""Processes that nothing ends: a step is given up, named, and has not passed; the node stays held while one lives."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runner.base import processes
from runner.base.errors import BusyError
from runner.run import leftovers
from runner.run.command import BlockEnding, CommandResult, run_block
from runner.run.lock import node_lock
from tests.cluster import until
from tests.test_cli import ROOT, command, records, runbook, step, write_entry
from tests.test_command import BASE, alive, mark, run

__all__ = ["mark"]


def impatient(block: str, cwd: Path, timeout: float, patience: float = 0.3) -> CommandResult:
    return run_block(block, environment=BASE, timeout=timeout, cwd=cwd, patience=patience)


@pytest.fixture
def signals_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a process that waits in the kernel: what a block leaves behind hears nothing."""
    monkeypatch.setattr(processes, "send", lambda _process, _number: None)
    monkeypatch.setattr(os, "killpg", lambda _group, _number: None)


@pytest.mark.usefixtures("signals_do_nothing")
def test_what_a_block_left_behind_and_nothing_ends_is_named_and_given_up(tmp_path: Path, mark: str) -> None:
    result = impatient(f"(exec -a {mark} sleep 1000) & echo done", tmp_path, timeout=400)
    (pid,) = alive(mark)
    assert (result.ending, result.exit_status, result.stdout.text) == (BlockEnding.EXITED, 0, "done\n")
    assert result.problem == f"could not be killed: process {pid} (state S, `sleep`)"
    assert result.stuck


@pytest.mark.usefixtures("signals_do_nothing")
def test_a_shell_that_nothing_ends_is_given_up_at_the_deadline(tmp_path: Path, mark: str) -> None:
    result = impatient(f"echo early; exec -a {mark} sleep 1000", tmp_path, timeout=2)
    (pid,) = alive(mark)
    assert (result.ending, result.exit_status, result.stdout.text) == (BlockEnding.TIMEOUT, None, "early\n")
    assert result.problem == f"could not be killed: process {pid} (state S, `sleep`)"


@pytest.mark.usefixtures("signals_do_nothing")
def test_a_process_that_writes_without_end_and_cannot_be_ended_is_not_read_without_end(
    tmp_path: Path, mark: str
) -> None:
    result = impatient(f"(exec -a {mark} yes) & echo done", tmp_path, timeout=400)
    assert result.stuck
    assert result.stdout.text.startswith(("done\n", "y\n"))


@pytest.mark.usefixtures("signals_do_nothing")
def test_the_node_is_held_by_what_could_not_be_ended_and_the_next_run_names_it(
    tmp_path: Path, mark: str
) -> None:
    with node_lock("first"):
        assert impatient(f"(exec -a {mark} sleep 1000) & true", tmp_path, timeout=400).stuck
    (pid,) = alive(mark)
    with (
        pytest.raises(BusyError, match=rf"run first .*process {pid} \(state S, `sleep`\)"),
        node_lock("next"),
    ):
        pass
    psutil.Process(pid).kill()
    until(lambda: not alive(mark), "it to be gone")
    with node_lock("next"):
        pass


def test_a_block_whose_shell_was_in_time_and_what_it_started_long_past_it_has_not_passed(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time jumps when the leftovers are looked at, as for a machine that takes long to end them.
    ended = leftovers.ProcessTree.end

    def slowly(*arguments: object) -> processes.Cleared:
        cleared = ended(*arguments)  # type: ignore[arg-type]
        passed = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: passed() + 1000)
        return cleared

    monkeypatch.setattr(leftovers.ProcessTree, "end", slowly)
    result = run(f"(exec -a {mark} sleep 1000) & true", tmp_path, timeout=400)
    assert (result.ending, result.exit_status) == (BlockEnding.TIMEOUT, None)
    assert result.problem is not None
    assert "its child processes were terminated" in result.problem
    assert alive(mark) == []


def test_what_dies_when_it_is_asked_to_does_not_cost_the_step_its_pass(tmp_path: Path, mark: str) -> None:
    write_entry(tmp_path / "runbooks", step("d", f"(exec -a {mark} sleep 1000) & true"))
    assert runbook(tmp_path, "run", "small").returncode == 0
    (record,) = records(tmp_path)
    assert (record.steps[0].status, record.steps[0].reason) == ("passed", None)
    assert record.steps[0].processes_ended >= 1


# Each link starts the next and ends at once; no link lives as long as a look at every process takes.
CHAIN = """
import os, sys
if os.fork(): os._exit(0)
{leave}
null = os.open('/dev/null', os.O_RDWR)
for fd in (0, 1, 2): os.dup2(null, fd)
open(sys.argv[1], 'w').close()
while True:
    if os.fork(): os._exit(0)
    {leave}
"""


@pytest.mark.parametrize("leave", ["pass", "os.setsid()"], ids=["one group", "a session a link"])
@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_a_chain_of_forks_is_caught(leave: str, ends_by_itself: bool, tmp_path: Path, mark: str) -> None:
    (tmp_path / "chain.py").write_text(CHAIN.format(leave=leave), encoding="utf-8")
    on = tmp_path / "on"
    block = f"{sys.executable} -S -E chain.py {on} {mark}; while [ ! -e {on} ]; do sleep 0.01; done"
    result = run(
        block if ends_by_itself else f"{block}; sleep 1000", tmp_path, timeout=400 if ends_by_itself else 5
    )
    assert result.ending is (BlockEnding.EXITED if ends_by_itself else BlockEnding.TIMEOUT)
    assert (result.problem, result.stuck) == (None, False)
    assert alive(mark) == []


def test_no_step_follows_one_whose_processes_could_not_be_ended(tmp_path: Path, mark: str) -> None:
    write_entry(
        tmp_path / "runbooks",
        step("bad", f"(exec -a {mark} sleep 1000) & true") + "\n\n" + step("next", f"touch {tmp_path}/ran"),
    )
    write_entry(tmp_path / "runbooks", step("other", f"touch {tmp_path}/ran"), entry_id="other", number=2)
    program = (
        "import os, sys\nfrom functools import partial\nfrom runner.cli import main, run\n"
        "from runner.base import processes\n"
        "processes.send = lambda *_: None\nos.killpg = lambda *_: None\n"
        "run.run_block = partial(run.run_block, patience=0.3)\n"
        f"sys.exit(main.main({command(tmp_path, 'run', 'small', 'other')[3:]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
    )
    (pid,) = alive(mark)
    assert done.returncode == 3
    (record,) = records(tmp_path)
    bad, following = record.steps
    assert (bad.status, bad.reason) == ("error", f"could not be killed: process {pid} (state S, `sleep`)")
    assert following.status == "skipped"
    assert following.reason == "the run was stopped because processes of bad could not be killed"
    assert record.ended_at is not None
    assert not (tmp_path / "ran").exists()
    # The second entry finds the node held, and says by whom.
    assert f"other was not run: run {record.run_id} holds this node" in done.stderr
    assert f"process {pid} (state S, `sleep`)" in done.stderr


@pytest.fixture
def frozen() -> Iterator[Path]:
    """A folder on a file system that is frozen: whoever writes there waits in state D, and SIGKILL does not end it."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("mkfs.ext4", "fsfreeze", "losetup", "mount"))):
        pytest.skip("needs root, mount, losetup, fsfreeze and mkfs.ext4")
    folder = Path(tempfile.mkdtemp(prefix="rb-frozen-"))
    image, place = folder / "image", folder / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False).returncode:
        shutil.rmtree(folder)
        pytest.skip("no loop device can be mounted here")
    try:
        if subprocess.run(["fsfreeze", "-f", str(place)], check=False).returncode:
            pytest.skip("file systems cannot be frozen here")
        try:
            yield place
        finally:
            subprocess.run(["fsfreeze", "-u", str(place)], check=True)
    finally:
        until(
            lambda: (
                subprocess.run(["umount", str(place)], check=False, stderr=subprocess.DEVNULL).returncode == 0
            ),
            "the file system to be unmounted",
        )
        shutil.rmtree(folder)


def in_state_d(mark: str) -> list[int]:
    return [pid for pid in alive(mark) if psutil.Process(pid).status() == psutil.STATUS_DISK_SLEEP]


@pytest.mark.system
def test_a_step_in_state_d_is_given_up_named_and_costs_no_core(
    frozen: Path, tmp_path: Path, mark: str
) -> None:
    write_entry(
        tmp_path / "runbooks",
        step("stuck", f": {mark}; echo x > {frozen}/file", "timeout=3") + "\n\n" + step("next", "true"),
    )
    began = time.monotonic()
    with subprocess.Popen(
        command(tmp_path, "run", "small"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        printed, _ = process.communicate(timeout=400)
    wall = time.monotonic() - began
    assert process.returncode == 3
    (pid,) = in_state_d(mark)
    (record,) = records(tmp_path)
    said = f"still running at its deadline: could not be killed: process {pid} (state D, `bash`)"
    assert [(one.status, one.reason) for one in record.steps] == [
        ("timeout", said),
        ("skipped", "the run was stopped because processes of stuck could not be killed"),
    ]
    assert f"process {pid}" in printed
    assert wall < 200
    # It holds the node, and the next run says so.
    refused = runbook(tmp_path, "run", "small")
    assert refused.returncode == 3
    assert f"process {pid} (state D, `bash`)" in refused.stderr
    subprocess.run(["fsfreeze", "-u", str(frozen)], check=True)
    until(lambda: not alive(mark), "the process to end")
    assert runbook(tmp_path, "run", "small", "--step", "next").returncode == 0
    subprocess.run(["fsfreeze", "-f", str(frozen)], check=True)


@pytest.mark.system
def test_waiting_for_a_process_in_state_d_costs_little(frozen: Path, tmp_path: Path, mark: str) -> None:
    block = f"bash -c ': {mark}; echo x > {frozen}/file' & bash -c ': {mark}; echo x > {frozen}/file'"
    began, used = time.monotonic(), time.process_time()
    result = impatient(block, tmp_path, timeout=1, patience=15)
    share = (time.process_time() - used) / (time.monotonic() - began)
    assert result.stuck
    # 0.28 of a core was seen where it was looked at a hundred times a second.
    assert share < 0.1


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_a_step_in_state_d_is_heeded(
    frozen: Path, tmp_path: Path, mark: str, number: signal.Signals
) -> None:
    write_entry(tmp_path / "runbooks", step("stuck", f": {mark}; echo x > {frozen}/file"))
    with subprocess.Popen(command(tmp_path, "run", "small"), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        until(lambda: bool(in_state_d(mark)), "the step to be in state D")
        process.send_signal(number)
        assert process.wait(timeout=300) == 130
    (pid,) = in_state_d(mark)
    (record,) = records(tmp_path)
    said = f"interrupted: could not be killed: process {pid} (state D, `bash`)"
    assert [(one.status, one.reason) for one in record.steps] == [("interrupted", said)]


@pytest.mark.system
def test_a_look_with_a_step_in_state_d_comes_back_and_drains_no_node(
    frozen: Path, tmp_path: Path, mark: str
) -> None:
    write_entry(tmp_path / "runbooks", step("stuck", f": {mark}; echo x > {frozen}/file"))
    write_entry(tmp_path / "runbooks", step("well", "true"), entry_id="well", number=2)
    words = command(tmp_path, "diagnose", "--deadline", "5")
    # The deadline, the grace, and what a killed process may take: far from a hang, whatever the machine.
    done = subprocess.run(
        [*words, "--prolog"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0
    assert "could not be killed: process" in done.stdout
    said = subprocess.run(
        [*words, "--json"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert said.returncode == 3
    states = {one["entry"]: one["state"] for one in json.loads(said.stdout)["entries"]}
    assert states == {"small": "unknown", "well": "clear"}


@pytest.mark.system
def test_another_users_process_that_may_not_be_ended_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to be two users, and setpriv")
    with tempfile.TemporaryDirectory(prefix="rb-user-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        become = folder / "become"
        shutil.copy(shutil.which("setpriv") or "", become)
        become.chmod(0o4755)
        if os.statvfs(become).f_flag & os.ST_NOSUID:
            pytest.skip("no program can change its user here")
        (folder / "work").mkdir()
        os.chown(folder / "work", 65534, 65534)
        # The block ends once `sleep` runs as root: before that, the process may still be ended.
        block = (
            f"{become} --ruid 0 sleep 1000 & echo $! > pid; until grep -qs sleep /proc/$!/comm; do :; done"
        )
        program = (
            "import os, sys; from pathlib import Path; from runner.run.command import run_block\n"
            f"done = run_block('{block}', environment=dict(os.environ),"
            " timeout=100, cwd=Path.cwd(), patience=0.3)\n"
            "print(done.ending.value, done.problem)"
        )
        done = subprocess.run(
            ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", program],
            cwd=folder / "work",
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "work")},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        pid = int((folder / "work" / "pid").read_text(encoding="utf-8"))
        try:
            assert done.stdout == f"exited could not be killed: process {pid} (state S, `sleep`)\n", (
                done.stderr
            )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
