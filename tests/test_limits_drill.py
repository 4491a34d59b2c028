"""`limits_drill`: real limits in namespaces, rlimits and control groups of its own, and nothing left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.base.processes import stat_of
from runner.entry.read import read_runbook
from runner.entry.signatures import match_log
from runner.kit.limits.worker import FAILED, REFUSED
from tests.logs import log_of
from tests.probe_process import probe

ROOT = Path(__file__).parents[1]
ENTRY = read_runbook(ROOT / "runbooks/container-limits.md")
NOT_APPLICABLE = 80


def drill(*words: str) -> tuple[int, dict[str, Any], str]:
    status, document, said = probe("limits_drill", *words)
    if status == NOT_APPLICABLE:
        pytest.skip(document["reason"])
    return status, document, said


def worker(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "runner.kit.limits.worker", *words, str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def numbers(document: Mapping[str, Any]) -> dict[str, float]:
    return {one["name"]: one["value"] for one in document["measurements"]}


def meanings(text: str) -> list[str]:
    return [hit.means or "" for match in match_log(log_of(text.splitlines()), [ENTRY]) for hit in match.hits]


@pytest.mark.parametrize(
    ("limit", "to", "meaning"),
    [
        ("shm", "64MiB", "/dev/shm has no space for a tensor"),
        ("nofile", "40", "RLIMIT_NOFILE is too low"),
    ],
)
def test_a_loader_under_a_small_limit_prints_what_the_entry_knows(limit: str, to: str, meaning: str) -> None:
    pytest.importorskip("torch")
    status, document, shown = drill("--limit", limit, "--to", to)
    assert status == 1, shown
    assert numbers(document) == {"limit_failed_work": 1}
    assert document["measurements"][0]["labels"] == {"limit": limit, "work": "loader"}
    assert any(one.startswith(meaning) for one in meanings(shown))


@pytest.mark.parametrize(("limit", "to"), [("shm", "1GiB"), ("nofile", "1024")])
def test_the_same_loader_under_a_larger_limit_ends_without_an_error(limit: str, to: str) -> None:
    pytest.importorskip("torch")
    status, document, shown = drill("--limit", limit, "--to", to)
    assert status == 0, shown
    assert numbers(document) == {"limit_failed_work": 0}
    assert meanings(shown) == []


def test_locking_above_the_limit_is_refused_even_to_root() -> None:
    status, document, _ = drill("--limit", "memlock", "--to", "64KiB")
    assert status == 1
    assert document["details"]["last_line"] == "OSError: [Errno 12] mlock: Cannot allocate memory"


def test_a_process_above_its_memory_limit_ends_with_137_and_free_does_not_show_the_limit() -> None:
    status, document, _ = drill("--limit", "memory", "--to", "64MiB")
    assert status == 1
    assert document["details"]["exit_status"] == 137
    assert numbers(document)["killed_by_limit"] == 1
    assert numbers(document)["free_shows_limit"] in {0, 1}


def test_under_enough_memory_the_process_is_not_killed() -> None:
    status, document, _ = drill("--limit", "memory", "--to", "512MiB")
    assert status == 0
    assert "killed_by_limit" not in numbers(document)


def test_without_torch_a_write_into_a_full_shm_is_a_bus_error() -> None:
    small = worker("shm", str(8 << 20), "shm_open")
    if small.returncode == REFUSED:
        pytest.skip(small.stdout)
    assert small.returncode == -signal.SIGBUS
    assert worker("shm", "0", "shm_open").returncode == 0


def test_without_torch_too_many_open_files_are_refused() -> None:
    small = worker("nofile", "40", "open")
    assert small.returncode == FAILED
    assert small.stdout.strip() == "OSError: [Errno 24] Too many open files: '/dev/null'"
    assert worker("nofile", "0", "open").returncode == 0


# Another user may not be able to read this Python, so it becomes that user after its imports; it may then write its
# own files in /proc again (PR_SET_DUMPABLE), as a program that this user started.
BECOME_A_USER = """
import ctypes, os
from runner.kit.limits.kernel_calls import mount_private_shm
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
try:
    mount_private_shm(8 << 20)
except OSError as error:
    print("refused:", error)
else:
    found = os.statvfs("/dev/shm")
    print(found.f_blocks * found.f_frsize)
"""


def test_a_user_without_root_gets_a_user_namespace_or_a_reason() -> None:
    before = os.statvfs("/dev/shm").f_blocks
    done = subprocess.run(
        [sys.executable, "-c", BECOME_A_USER], capture_output=True, text=True, check=True, cwd=ROOT
    )
    if done.stdout.startswith("refused:"):
        pytest.skip(done.stdout)
    assert done.stdout.strip() == str(8 << 20)
    assert os.statvfs("/dev/shm").f_blocks == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("shm", "--to", "much"), "is not a size"),
        (("shm", "--to", "4KiB"), "must be above 1048576"),
        (("nofile", "--to", "64MiB"), "is a whole number"),
        (("nofile", "--to", "3"), "must be above 20"),
        (("memlock", "--to", "0"), "must be above 0"),
    ],
)
def test_a_limit_under_which_nothing_begins_is_bad_input(words: tuple[str, ...], why: str) -> None:
    status, _, shown = drill("--limit", *words)
    assert status == 2
    assert why in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_drill_leaves_no_process_and_no_group(number: signal.Signals, tmp_path: Path) -> None:
    groups = set(Path("/sys/fs/cgroup").rglob("runbook-memory-*"))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "runner.probes.limits_drill", "--limit", "shm", "--to", "512MiB"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    mine: list[str] = []
    while process.poll() is None and not mine:
        mine = children.read_text().split()
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    # Reparented to a process that may reap late; one that had not begun to work ends by itself.
    while any((found := stat_of(int(one))) is not None and found.lives for one in mine):
        pass
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/sys/fs/cgroup").rglob("runbook-memory-*")) <= groups
