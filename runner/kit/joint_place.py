"""This node's place in a joint job, and the network interface that leads to the others. No torch here."""

import contextlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from runner.base.errors import InputError

NODES, NODE, MEETING, RUN = "RUNBOOK_NODES", "RUNBOOK_NODE_RANK", "RUNBOOK_RENDEZVOUS", "RUNBOOK_RUN_ID"
_MOST_NODES = 10_000
_MEETING = re.compile(r"(?P<host>[^\s:]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class JointPlace:
    """This node in a joint job: how many nodes, which one, and where the first one listens."""

    nodes: int
    node: int
    host: str
    port: int
    run: str


def joint_place(environment: Mapping[str, str]) -> JointPlace:
    """This node's place, by the variables that a step with `nodes=` gets.

    Raises:
        InputError: a variable is missing, or is not what a joint job sets.
    """
    numbers = [environment.get(name, "") for name in (NODES, NODE)]
    meeting = _MEETING.fullmatch(environment.get(MEETING, ""))
    if meeting is None or not all(re.fullmatch(r"\d{1,5}", number) for number in numbers):
        raise InputError(
            f"this needs {NODES}, {NODE} and {MEETING} (host:port of the first node); a step with nodes= of a"
            " campaign sets them"
        )
    nodes, node = map(int, numbers)
    if not (1 < nodes <= _MOST_NODES and node < nodes):
        raise InputError(f"{NODES}={nodes} and {NODE}={node}: two nodes or more, counted from 0")
    return JointPlace(
        nodes, node, meeting["host"].strip("[]"), int(meeting["port"]), environment.get(RUN, "")
    )


def interface_to(host: str, port: int) -> str | None:
    """The network interface of this host from which that address is reached; None if unknown. Nothing is sent."""
    with contextlib.suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(one.address.partition("%")[0] == own for one in addresses):
                return name
    return None


def joint_environment(place: JointPlace) -> dict[str, str]:
    """The environment of ranks over gloo: an interface that reaches the other nodes, unless one was chosen."""
    interface = interface_to(place.host, place.port)
    return ({"GLOO_SOCKET_IFNAME": interface} if interface else {}) | dict(os.environ)
