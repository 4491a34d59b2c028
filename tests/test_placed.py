"""Files that others may have placed are read without waiting, without end, and without a traceback."""

import os
import socket
from pathlib import Path

import pytest

from runner.base.placed import PlacedFileError, placed_file, read_placed


def _kind(path: Path, most: int = 100, *, pipes: bool = False, links: bool = True) -> str:
    with pytest.raises(PlacedFileError) as raised:
        read_placed(path, most, pipes=pipes, links=links)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")
    assert raised.value.exit_status == 2
    return raised.value.kind


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 100)
    assert read_placed(file, 100) == b"x" * 100
    (tmp_path / "link").symlink_to(file)
    assert read_placed(tmp_path / "link", 100) == b"x" * 100


def test_a_file_of_the_kernel_that_says_it_is_empty_is_read() -> None:
    assert b"Name:" in read_placed(Path("/proc/self/status"), 1 << 20)


def test_a_larger_file_is_refused_and_not_cut(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 101)
    assert _kind(file) == "large"


def test_a_sparse_file_of_forty_gigabytes_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch()
    os.truncate(file, 40 << 30)
    assert _kind(file, 1 << 20) == "large"


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert _kind(tmp_path / "pipe") == "special"
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert _kind(tmp_path / "link") == "special"


def test_a_device_a_socket_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert _kind(Path("/dev/zero")) == "special"
    assert _kind(tmp_path) == "folder"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert _kind(tmp_path / "s") == "special"


def test_a_path_that_the_caller_typed_may_be_a_pipe_but_not_an_endless_one() -> None:
    read, write = os.pipe()
    os.write(write, b"topology")
    os.close(write)
    try:
        assert read_placed(Path(f"/dev/fd/{read}"), 100, pipes=True) == b"topology"
    finally:
        os.close(read)
    assert _kind(Path("/dev/zero"), pipes=True) == "large"


def test_a_link_is_followed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    (tmp_path / "link").symlink_to(file)
    assert _kind(tmp_path / "link", links=False) == "special"
    assert read_placed(file, 1, links=False) == b"x"


def test_what_is_not_there_or_no_path_is_said_in_one_line(tmp_path: Path) -> None:
    assert _kind(tmp_path / "none") == "missing"
    (tmp_path / "file").touch()
    assert _kind(tmp_path / "file" / "below") == "missing"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert _kind(tmp_path / "circle") == "closed"
    with pytest.raises(PlacedFileError):
        read_placed(Path("a\0b"), 1)


def test_a_file_of_the_kernel_that_could_wait_for_ever_is_not_waited_for(tmp_path: Path) -> None:
    # /proc/kmsg is a regular file by its kind, and a read of it waits for the next message.
    (tmp_path / "log").write_text("a line\n")
    with placed_file(tmp_path / "log", pipes=True) as descriptor:
        assert not os.get_blocking(descriptor)
