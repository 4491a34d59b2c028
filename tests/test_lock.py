"""One run at a time on a node, whoever runs, and however a run ends."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.base.errors import BusyError, RunbookError
from runner.run import lock
from runner.run.lock import node_lock

ROOT = Path(__file__).parents[1]
HOLDS = """
import sys
from runner.run.lock import node_lock
with node_lock("first"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the node."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_in_one_line_that_names_the_first(holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(BusyError) as raised, node_lock("second"):
        pass
    message = str(raised.value)
    assert "run first" in message
    assert f"pid {holder.pid}" in message
    assert "\n" not in message
    assert raised.value.exit_status == 3


def test_the_refused_run_leaves_the_holders_name_in_place(holder: "subprocess.Popen[str]") -> None:
    for _ in range(2):
        with pytest.raises(BusyError, match=f"pid {holder.pid}"), node_lock("second"):
            pass


def test_the_lock_of_a_killed_run_does_not_block_the_next(
    holder: "subprocess.Popen[str]", own_node: Path
) -> None:
    holder.kill()
    holder.wait()
    assert str(holder.pid) in own_node.read_text(encoding="utf-8")
    with node_lock("second"):
        assert f'"pid": {os.getpid()}' in own_node.read_text(encoding="utf-8")


def test_a_shorter_name_replaces_a_longer_one_as_a_whole(own_node: Path) -> None:
    own_node.write_text("x" * 1000, encoding="utf-8")
    with node_lock("a"), pytest.raises(BusyError, match="run a "), node_lock("b"):
        pass


def test_a_run_that_fails_lets_go() -> None:
    with pytest.raises(ZeroDivisionError), node_lock("a"):
        raise ZeroDivisionError
    with node_lock("b"):
        pass


def test_what_a_run_starts_does_not_keep_the_lock_after_it() -> None:
    with node_lock("a"):
        words = ["sh", "-c", "echo on; exec sleep 1000"]
        process = subprocess.Popen(words, close_fds=False, stdout=subprocess.PIPE)
        # Until it works, it may still hold what its program does not get.
        assert process.stdout
        assert process.stdout.readline() == b"on\n"
    try:
        with node_lock("b"):
            pass
    finally:
        process.kill()
        process.communicate()


def test_a_holder_that_could_not_write_its_name_holds_all_the_same(
    monkeypatch: pytest.MonkeyPatch, own_node: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    own_node.write_text("garbage", encoding="utf-8")
    monkeypatch.setattr(os, "pwrite", full)
    with node_lock("a"), pytest.raises(BusyError, match="another run holds"), node_lock("b"):
        pass


@pytest.mark.parametrize("what", ["folder", "link", "missing folder"])
def test_a_lock_that_cannot_be_opened_is_one_line(what: str, own_node: Path, tmp_path: Path) -> None:
    place = own_node
    match what:
        case "folder":
            place.mkdir()
        case "link":
            place.symlink_to(tmp_path / "victim")
        case _:
            place = tmp_path / "not-there" / "lock"
    with pytest.raises(RunbookError, match="cannot open the node's lock") as raised, node_lock("a", place):
        pass
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "victim").exists()


def place_of(kind: str, place: Path) -> Path:
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(place))
        case "link to a device":
            place.symlink_to("/dev/zero")
        case "link to nowhere":
            place.symlink_to(place.with_name("not-there"))
        case _:
            return Path(kind)
    return place


@pytest.mark.parametrize(
    "kind",
    ["pipe", "socket", "link to a device", "link to nowhere", "/dev/zero", "/dev/tty"],
)
def test_a_lock_that_is_no_file_is_one_line_and_is_not_waited_for(kind: str, own_node: Path) -> None:
    with (
        pytest.raises(RunbookError, match="cannot open the node's lock") as raised,
        node_lock("a", place_of(kind, own_node)),
    ):
        pytest.fail("held")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_status == 3


CONTENTS = {
    "nested without end": b"[" * 1_000_000,
    "a nested object": b'{"pid":' * 500,
    "binary": bytes(range(256)) * 100,
    "another shape": b'{"pid": "4711", "run_id": ["a"]}',
    "no process": b'{"pid": -1, "run_id": "a"}',
    "escape codes": b'{"pid": 1, "run_id": "\\u001b[2J\\u202e"}',
    "lines": b'{"pid": 1, "run_id": "a\\nrunbook: all is well"}',
    "a long name": b'{"pid": 1, "run_id": "%s"}' % (b"x" * 100_000),
    "a number without end": b'{"pid": 1%s, "run_id": "a"}' % (b"0" * 4000),
    "text that is none": b'{"pid": 1, "run_id": "\\ud800"}',
    "nothing": b"",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_a_lock_file_says_can_neither_hang_nor_deceive_nor_end_a_run(
    content: bytes, holder: "subprocess.Popen[str]", own_node: Path
) -> None:
    own_node.write_bytes(content)
    with pytest.raises(BusyError) as raised, node_lock("second"):
        pytest.fail("held")
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 500
    # Whatever the file says, the process that holds the lock is named.
    assert f"process {holder.pid} (state " in message


def test_a_lock_file_of_any_size_is_taken(own_node: Path) -> None:
    with own_node.open("wb") as file:
        file.truncate(40 << 30)
    with node_lock("a"):
        assert own_node.stat().st_size < 100
    with own_node.open("wb") as file:
        file.truncate(40 << 30)
    with node_lock("a"):
        with own_node.open("r+b") as file:
            file.truncate(40 << 30)
        with pytest.raises(BusyError), node_lock("b"):
            pytest.fail("held")


def test_who_only_waits_for_the_lock_is_not_named_as_its_holder(
    holder: "subprocess.Popen[str]", own_node: Path
) -> None:
    waits = "import fcntl, sys; f = open(sys.argv[1], 'r+'); print('on', flush=True); fcntl.flock(f, fcntl.LOCK_EX)"
    own_node.write_bytes(b"")
    with subprocess.Popen(
        [sys.executable, "-c", waits, str(own_node)], stdout=subprocess.PIPE, text=True
    ) as waiting:
        try:
            assert waiting.stdout
            assert waiting.stdout.readline() == "on\n"
            with pytest.raises(BusyError) as raised, node_lock("second"):
                pytest.fail("held")
        finally:
            waiting.kill()
    assert f"process {holder.pid} " in str(raised.value)
    assert f"process {waiting.pid} " not in str(raised.value)


def test_every_user_of_the_node_can_take_the_lock_after_another() -> None:
    mask = os.umask(0o077)
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o1777)
            place = Path(folder) / "lock"
            with node_lock("a", place):
                pass
            assert stat.S_IMODE(place.stat().st_mode) == 0o666
            if os.geteuid() == 0:
                os.seteuid(65534)
                try:
                    with node_lock("b", place):
                        pass
                finally:
                    os.seteuid(0)
    finally:
        os.umask(mask)


def test_a_temporary_folder_of_ones_own_is_not_another_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Path("/tmp") == lock._PLACE.parent
    monkeypatch.delenv("RUNBOOK_LOCK")
    monkeypatch.setattr(lock, "_PLACE", tmp_path / "the-node's")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "job-1"))
    with node_lock("a"):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "job-2"))
        with pytest.raises(BusyError), node_lock("b"):
            pass
