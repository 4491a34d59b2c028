"""Ports of our own ranks: free, and none that the kernel would give to a connection."""

import socket
from pathlib import Path

import pytest

from runner.base.errors import RunbookError
from runner.kit import own_port as module
from runner.kit.own_port import own_port


def test_a_port_is_free_and_below_those_of_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    port = own_port()
    assert 1_024 <= port < max(first, 13_024)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()


@pytest.mark.parametrize("text", ["", "words", "1024\t65535\n", "0\t0\n"])
def test_whatever_the_kernel_says_there_is_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    said = tmp_path / "range"
    said.write_text(text, encoding="ascii")
    monkeypatch.setattr(module, "_GIVEN", said)
    assert 1_024 <= own_port() < 65_536
    monkeypatch.setattr(module, "_GIVEN", tmp_path / "absent")
    assert own_port() < 32_768


def test_where_every_port_is_taken_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(socket.socket):
        def bind(self, _: object) -> None:
            raise OSError

    monkeypatch.setattr(socket, "socket", Taken)
    with pytest.raises(RunbookError, match=r"no port of 127\.0\.0\.1 from"):
        own_port()
