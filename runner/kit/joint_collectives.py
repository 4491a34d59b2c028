"""Collectives over the nodes of a joint job: the ranks of each, and the network that NCCL used between them."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.base.errors import RankError
from runner.kit.children import ended_by_sigterm
from runner.kit.collective_timing import CollectiveJob, ranks_of
from runner.kit.joint import JointWorld, follow, leading
from runner.kit.joint_place import JointPlace, joint_environment
from runner.kit.nccl.network import Network, merged_networks, network_fault, read_network
from runner.kit.probe import say, single
from runner.kit.ranks import Across, World
from runner.node.host.rdma_reading import Role, read_rdma
from runner.node.host.tree import HostTree
from runner.record.model import Measurement

NETWORK = "network"
Seen = Mapping[int, tuple[Network, int]]
"""Node → the network of its ranks, and its active RDMA ports."""


def lead_collectives(
    job: CollectiveJob, place: JointPlace, logs: Path, deadline: float
) -> contextlib.AbstractContextManager[JointWorld]:
    """The ranks of all nodes, controlled from this one; raises as `leading` does."""
    return leading(place, _offer(job), _start(job, place, logs, deadline), deadline)


def follow_collectives(job: CollectiveJob, place: JointPlace) -> None:
    """Start the ranks of this node and do what the first node says, until it is done. Prints nothing."""
    deadline = time.monotonic() + job.timeout
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="nccl-logs-") as folder:
        logs = Path(folder) / "caller"
        start = _start(job, place, logs, deadline)
        follow(place, _offer(job), start, lambda name: network_reply(name, logs), deadline)


def networks_seen(world: World | JointWorld, job: CollectiveJob, logs: Path) -> Seen:
    """The network of every node, by the logs of its ranks; empty without NCCL, or on one node.

    Raises:
        RankError: a node failed, or did not answer.
    """
    if job.backend != "nccl" or not isinstance(world, JointWorld):
        return {}
    replies = {0: network_reply(NETWORK, logs)} | world.ask_nodes(NETWORK, "reading NCCL's log")
    return {node: _seen(node, reply) for node, reply in replies.items()}


def network_channels(seen: Seen, job: CollectiveJob) -> list[Measurement]:
    """The connections between nodes, by network, over all nodes."""
    merged = merged_networks(network for network, _ in seen.values())
    for node, (network, _) in seen.items():
        say(f"node {node}: network {network}")
    return [
        single(
            "nccl_channels", count, transport=f"NET/{name}", arm="caller", ranks=job.ranks, nodes=job.nodes
        )
        for name, count in sorted(merged.channels.items())
    ]


def fault_between(seen: Seen) -> str | None:
    """The first fault of a node's network, with the node; None if there is none."""
    for node, (network, ports) in seen.items():
        if (fault := network_fault(network, rdma_ports=ports)) is not None:
            return f"node {node}: {fault}"
    return None


def active_rdma_ports() -> int:
    """Active RDMA ports of this host that carry data."""
    return sum(port.active and port.role is Role.NETWORK for port in read_rdma(HostTree()).ports)


def _offer(job: CollectiveJob) -> dict[str, object]:
    return {"backend": job.backend, "ranks": job.ranks}


def _start(
    job: CollectiveJob, place: JointPlace, logs: Path, deadline: float
) -> Callable[[Across, Callable[[], None]], World]:
    def start(across: Across, meanwhile: Callable[[], None]) -> World:
        return ranks_of(job, "caller", joint_environment(place), logs, deadline, across, meanwhile)

    return start


def network_reply(name: str, logs: Path) -> dict[str, Any]:
    """The answer of a node to the question `network`: what NCCL logged there."""
    if name != NETWORK:
        return {}
    found = asdict(read_network(logs))
    found["pairs"] = [[source, target, by] for (source, target), by in found["pairs"].items()]
    return {"network": found, "rdma_ports": active_rdma_ports()}


def _seen(node: int, reply: Mapping[str, Any]) -> tuple[Network, int]:
    try:
        return _network_of(reply), int(reply["rdma_ports"])
    except (KeyError, TypeError, ValueError) as error:
        raise RankError(
            f"node {node} tells of its network in another form: is the same version of llm-runbooks installed there?"
        ) from error


def _network_of(reply: Mapping[str, Any]) -> Network:
    found = dict(reply["network"])
    found["pairs"] = {(source, target): by for source, target, by in found["pairs"]}
    for name in ("errors", "events"):
        found[name] = tuple(tuple(one) for one in found[name])
    return Network(**found | {"chosen": tuple(found["chosen"])})
