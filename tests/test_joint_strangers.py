"""What strangers send to the first node of a joint job: it waits for its own nodes, with bounded time and memory."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from runner.base.errors import RankError
from runner.kit.joint import JointWorld, leading
from runner.kit.joint_collectives import networks_seen
from runner.kit.joint_line import JointLine
from runner.kit.joint_place import JointPlace
from runner.kit.ranks import World

RUN = "run-1"
OFFER = {"backend": "gloo"}
HELLO = {"run": RUN, "node": 1, "offer": OFFER}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def connected(port: int) -> socket.socket:
    until = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def joined(port: int, strangers: list[bytes]) -> None:
    """Strangers connect and stay; then a node joins, and waits until the job ends."""
    with contextlib.ExitStack() as stack:
        for said in strangers:
            connection = stack.enter_context(connected(port))
            with contextlib.suppress(OSError):
                connection.sendall(said)
        own = stack.enter_context(connected(port))
        own.sendall(json.dumps(HELLO).encode() + b"\n")
        with contextlib.suppress(OSError):
            while own.recv(1 << 16):
                pass


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\xff" * 1000,
        b"[" * 100_000 + b"\n",
        json.dumps({**HELLO, "run": "another"}).encode() + b"\n",
        json.dumps({**HELLO, "node": True}).encode() + b"\n",
        json.dumps({**HELLO, "node": [1]}).encode() + b"\n",
        json.dumps({**HELLO, "node": 0}).encode() + b"\n",
        b"x" * (1 << 20),
        b'{"a":1}\n' * 100_000,
    ],
    ids=[
        "silent",
        "http",
        "binary",
        "nested",
        "other run",
        "true",
        "a list",
        "the first",
        "no end",
        "flood",
    ],
)
def test_strangers_at_the_port_do_not_keep_a_node_from_joining(said: bytes) -> None:
    place = JointPlace(2, 0, "127.0.0.1", free_port(), RUN)
    node = threading.Thread(target=joined, args=(place.port, [said] * 20), daemon=True)
    node.start()
    start = cast("Any", lambda *_: contextlib.nullcontext(None))
    with leading(place, OFFER, start, time.monotonic() + 60) as world:
        assert isinstance(world, JointWorld)
    node.join(30)
    assert not node.is_alive()


@contextlib.contextmanager
def pair() -> Iterator[tuple[JointLine, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        with JointLine(server.accept()[0]) as line, other:
            yield line, other


def test_a_sender_that_never_stops_does_not_decide_when_a_read_ends() -> None:
    with pair() as (line, other):
        stop = threading.Event()

        def flood() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    other.sendall(b'{"a":1}\n' * 1000)

        sender = threading.Thread(target=flood, daemon=True)
        sender.start()
        line.read(5.0, most=1 << 16)
        assert 0 < len(line.inbox) <= (2 << 16) // 8 + 1
        stop.set()
    sender.join(30)


def test_a_greeting_without_end_is_none() -> None:
    with pair() as (line, other):
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            other.sendall(b"x" * (1 << 20))
        while (hello := line.greeting()) is None:
            pass
        assert (hello, "more than" in str(line.failure)) == ({}, True)


class OneRank:
    """A node whose ranks answer nothing."""

    def ask(self, *_: object) -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize("answer", [{}, {"answers": 3}, {"answers": [3]}, {"answers": {"a": 1}}])
def test_a_node_that_answers_something_else_is_named(answer: dict[str, object]) -> None:
    with pair() as (line, other):
        world = JointWorld(cast("World", OneRank()), {4: line}, time.monotonic() + 60)
        other.sendall(json.dumps(answer).encode() + b"\n")
        with pytest.raises(RankError, match="node 4 sent something else than answers, while timing"):
            world.ask({}, "timing")


def test_a_node_that_tells_of_its_network_in_another_form_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.kit.joint_collectives.network_reply", lambda *_: {"network": 3})
    job = cast("Any", type("Job", (), {"backend": "nccl"}))
    world = JointWorld(cast("World", OneRank()), {}, time.monotonic() + 60)
    with pytest.raises(RankError, match="node 0 tells of its network in another form"):
        networks_seen(world, job, cast("Any", None))
