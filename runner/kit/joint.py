"""Ranks on several nodes of one joint job, controlled from its first node. No torch here.

Every node of the job runs the same command. The first one leads: it listens at RUNBOOK_RENDEZVOUS, chooses the port at
which the ranks meet and tells the others. Each node starts its own ranks. A command of the leader goes to the ranks of
all nodes, and the answers come back in order of rank, as with the ranks of one node:

    place = joint_place(os.environ)
    if place.node:
        follow(place, offer, start, reply, deadline)   # returns when the leader is done; prints nothing
    else:
        with leading(place, offer, start, deadline) as world:
            answers = world.ask({"op": "all_reduce"}, "timing all_reduce")

Nothing that a message holds is executed: a node starts the program that its own command line names. As with torch's
rendezvous, the network between the nodes must be trusted; a connection without the id of the run is dropped.
"""

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runner.base.errors import InputError, LateRankError, RankError
from runner.base.plain import one_line
from runner.base.words import ranges
from runner.kit.joint_line import JointLine
from runner.kit.joint_place import JointPlace
from runner.kit.ranks import Across, World, refuse_taken

_RETRY_S, _POLL_S = 0.2, 0.01
# Of connections that have not said whose they are; others wait in the kernel until one of these is closed.
_MOST_WAITING = 64
# How long the errors of other nodes are waited for after the first: a dead rank makes the ranks of others fail.
_LAST_WORDS_S = 2.0
# Below the kernel's ephemeral ports, as in `runner.fleet.script`.
_PORTS = range(20_000, 32_000)
_WHERE = "scontrol show hostnames lists the nodes of a job, from 0"

Start = Callable[[Across, Callable[[], None]], World]
"""Starts the ranks of this node; the second argument is for `World(meanwhile=…)`."""


class JointWorld:
    """The ranks of all nodes, as `World` has those of one. `lines`: node → line to it."""

    def __init__(self, world: World, lines: Mapping[int, JointLine], deadline: float) -> None:
        self._world, self._lines, self._deadline = world, lines, deadline

    def ask(
        self, command: Mapping[str, object] | None, doing: str, deadline: float | None = None
    ) -> list[dict[str, Any]]:
        """Send the ranks of all nodes the same command and collect their answers, in order of rank.

        Raises:
            LateRankError: a rank or a node did not answer by the deadline; the message names it.
            RankError: a rank died or failed; the message names it and its node.
        """
        for line in self._lines.values():
            line.send({"ask": command, "doing": doing})
        try:
            answers = self._world.ask(command, doing, deadline)
        except RankError as error:
            raise self._gravest([f"node 0: {error}"]) from error
        for node, message in self._replies(doing, deadline).items():
            found = message.get("answers")
            if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
                raise RankError(
                    f"node {node} sent something else than answers, while {doing}: is the same version of "
                    f"llm-runbooks installed there? {_WHERE}"
                )
            answers += found
        return answers

    def ask_nodes(self, name: str, doing: str) -> dict[int, dict[str, Any]]:
        """What each other node replies to a question of this name.

        Raises:
            RankError: a node failed, or did not answer by the deadline.
        """
        for line in self._lines.values():
            line.send({"question": name})
        return self._replies(doing, None)

    def check(self) -> None:
        """Read what has come from other nodes.

        Raises:
            RankError: a node has reported an error, or is gone.
        """
        for line in self._lines.values():
            line.read()
        if any(line.failure for line in self._lines.values()):
            raise self._gravest([])

    def _replies(self, doing: str, deadline: float | None) -> dict[int, dict[str, Any]]:
        latest = self._deadline if deadline is None else min(deadline, self._deadline)
        while missing := [node for node, line in self._lines.items() if not line.inbox]:
            self.check()
            if time.monotonic() > latest:
                raise LateRankError(
                    f"{_nodes(missing)} did not answer by the deadline, while {doing}; {_WHERE}"
                )
            if not any(line.inbox for node, line in self._lines.items() if node in missing):
                time.sleep(0.005)
        return {node: line.inbox.pop(0) for node, line in sorted(self._lines.items())}

    def _gravest(self, errors: list[str]) -> RankError:
        until = time.monotonic() + _LAST_WORDS_S
        while time.monotonic() < until and not all(line.failure for line in self._lines.values()):
            for line in self._lines.values():
                line.read()
            time.sleep(_RETRY_S / 2)
        errors += [
            f"node {node}: {line.failure}" for node, line in sorted(self._lines.items()) if line.failure
        ]
        # A rank that died by itself takes precedence over those that fail because of it.
        for words in (" died while", "never joined", "hung (", "fell behind"):
            if told := next((error for error in errors if words in error), None):
                return RankError(f"{told}; {_WHERE}")
        return RankError(f"{errors[0] if errors else 'a node ended'}; {_WHERE}")


@contextlib.contextmanager
def leading(
    place: JointPlace, offer: Mapping[str, object], start: Start, deadline: float
) -> Iterator[JointWorld]:
    """Wait for the other nodes, start the ranks of this one, and control those of all.

    Args:
        place: this node, the first.
        offer: what all nodes must have in common, such as the backend and the number of ranks.
        start: starts the ranks of this node.
        deadline: `time.monotonic()` of everything.

    Raises:
        LateRankError: a node never joined; the message names it.
        InputError: a node has something else to offer; the message names it.
        RankError: a rank died or failed.
    """
    with contextlib.ExitStack() as stack:
        lines = _gathered(place, offer, deadline, stack)
        port = _free_port()
        for line in lines.values():
            line.send({"port": port})
        joint: list[JointWorld] = []

        def watched() -> None:
            for one in joint:
                one.check()

        world = stack.enter_context(start(Across(place.nodes, 0, place.host, port), watched))
        joint.append(JointWorld(world, lines, deadline))
        yield joint[0]
        for line in lines.values():
            line.send({"end": True})


def follow(
    place: JointPlace,
    offer: Mapping[str, object],
    start: Start,
    reply: Callable[[str], Mapping[str, object]],
    deadline: float,
) -> None:
    """Start the ranks of this node and pass on the leader's commands, until it is done or gone.

    Args:
        place: this node, not the first.
        offer: as for `leading`.
        start: as for `leading`.
        reply: the answer to a question of `JointWorld.ask_nodes`.
        deadline: as for `leading`.
    """
    with contextlib.suppress(_LeaderGoneError), contextlib.ExitStack() as stack:
        line = stack.enter_context(_called(place, deadline))
        line.send({"run": place.run, "node": place.node, "offer": dict(offer)})
        port = _next(line, deadline).get("port")
        if not isinstance(port, int) or port not in _PORTS:
            return

        def watched() -> None:
            line.read()
            if line.failure:
                raise _LeaderGoneError

        try:
            world = stack.enter_context(start(Across(place.nodes, place.node, place.host, port), watched))
            while "end" not in (message := _next(line, deadline)):
                if "question" in message:
                    line.send(reply(str(message["question"])))
                else:
                    line.send({"answers": world.ask(message["ask"], str(message["doing"]))})
        except (RankError, InputError, ModuleNotFoundError) as error:
            line.send({"error": str(error)})


class _LeaderGoneError(Exception):
    """The first node has ended; it tells why."""


def _gathered(
    place: JointPlace, offer: Mapping[str, object], deadline: float, stack: contextlib.ExitStack
) -> dict[int, JointLine]:
    lines: dict[int, JointLine] = {}
    # Connections that did not say yet whose they are: any program may connect, and say nothing.
    waiting: list[JointLine] = []
    with _listener(place) as listener, _closing(waiting):
        while missing := [node for node in range(1, place.nodes) if node not in lines]:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LateRankError(f"{_nodes(missing)} never joined by the deadline; {_WHERE}")
            if (line := _accepted(listener, left, waiting)) is not None:
                waiting.append(line)
            for line in [*waiting]:
                hello = line.greeting()
                if hello is None:
                    continue
                waiting.remove(line)
                node = hello.get("node")
                if hello.get("run") != place.run or type(node) is not int or node not in missing:
                    line.close()
                    continue
                missing.remove(node)
                lines[node] = stack.enter_context(line)
                if hello.get("offer") != offer:
                    raise InputError(
                        f"node {node} offers {one_line(str(hello.get('offer')))[:200]} and node 0 {dict(offer)}; "
                        f"all nodes need the same; {_WHERE}"
                    )
    return lines


@contextlib.contextmanager
def _closing(lines: list[JointLine]) -> Iterator[None]:
    try:
        yield
    finally:
        for line in lines:
            line.close()


def _accepted(listener: socket.socket, left: float, waiting: list[JointLine]) -> JointLine | None:
    """The next connection; None if there is none now, or if enough are waiting."""
    if len(waiting) >= _MOST_WAITING:
        time.sleep(_POLL_S)
        return None
    listener.settimeout(min(left, _POLL_S if waiting else _RETRY_S))
    try:
        return JointLine(listener.accept()[0])
    except OSError:
        # None came in time, or one was gone again before it was taken.
        return None


def _listener(place: JointPlace) -> socket.socket:
    with contextlib.suppress(OSError):
        return socket.create_server((place.host, place.port))
    try:
        # The address of the node may be one that is translated on the way to it.
        return socket.create_server(("", place.port))
    except OSError as error:
        raise InputError(
            f"cannot listen on port {place.port} ({error.strerror}); ss -ltnp shows who uses it"
        ) from error


def _called(place: JointPlace, deadline: float) -> JointLine:
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return JointLine(socket.create_connection((place.host, place.port), timeout=10))
        time.sleep(_RETRY_S)
    raise _LeaderGoneError


def _next(line: JointLine, deadline: float) -> dict[str, Any]:
    while not line.inbox:
        line.read(_RETRY_S)
        if line.failure or time.monotonic() > deadline:
            raise _LeaderGoneError
    return line.inbox.pop(0)


def _free_port() -> int:
    for port in random.SystemRandom().sample(_PORTS, 100):
        with contextlib.suppress(InputError):
            refuse_taken(port)
            return port
    raise InputError(f"no free port from {_PORTS.start} to {_PORTS.stop - 1} for the ranks")


def _nodes(numbers: list[int]) -> str:
    return f"node {numbers[0]}" if len(numbers) == 1 else f"nodes {ranges(numbers)}"
