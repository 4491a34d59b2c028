"""What `node_pairs` does: two passes of pairs over the nodes of a joint job, and the verdict."""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from runner.base.errors import InputError
from runner.base.units import format_value, parse_bytes
from runner.base.words import counted, ranges
from runner.hardware.gpus import visible_count
from runner.kit.children import ended_by_sigterm
from runner.kit.collective_timing import CollectiveJob, bus_factor
from runner.kit.joint import JointWorld, follow, leading
from runner.kit.joint_collectives import network_channels, network_reply, networks_seen
from runner.kit.joint_place import JointPlace, joint_environment, joint_place
from runner.kit.nccl.log import logging_environment
from runner.kit.pairs.schedule import (
    Pair,
    PairOutcome,
    PairVerdict,
    first_pass,
    judge_pairs,
    measure_of,
    second_pass,
    wanted_groups,
)
from runner.kit.probe import Findings, measured, say, single
from runner.kit.ranks import Across, World
from runner.record.model import Measurement

# A pair is slow below this share of the others. Links of one fabric differ by few percent; processes on CPUs by more.
SHARES: Mapping[str, float] = {"nccl": 0.8, "gloo": 0.3}
_SIZES: Mapping[str, str] = {"nccl": "256MiB", "gloo": "1MiB"}
_WARMUP = 2


@dataclass(frozen=True)
class PairSearch:
    """One search.

    Attributes:
        backend, ranks: of each node.
        size: of a message in bytes.
        share: a pair is slow below this share of what others reach.
        expected: what a pair should reach, in bytes per second; None if unknown.
        slow_node, slow_rate: an injected fault: this node sends at this rate only.
    """

    backend: str
    ranks: int
    size: int
    iterations: int
    timeout: float
    share: float
    expected: float | None
    slow_node: int | None
    slow_rate: float


def pair_findings(arguments: argparse.Namespace) -> Findings:
    """Measure the pairs and name the slow nodes.

    Raises:
        InputError: this is no joint job, or a number is out of range.
        RankError: a rank or a node died, or gave no answer.
    """
    place = joint_place(os.environ)
    search = _search(arguments, place)
    deadline = time.monotonic() + search.timeout
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nccl-logs-")))
        start = _start(search, place, logs, deadline)
        offer = {"backend": search.backend, "ranks": search.ranks, "bytes": search.size}
        if place.node:
            follow(place, offer, start, lambda name: network_reply(name, logs), deadline)
            # The first node has the result.
            raise SystemExit(0)
        world = stack.enter_context(leading(place, offer, start, deadline))
        world.ask(None, "joining the group")
        first = _passed(world, search, first_pass(place.nodes), "first pass")
        measure = max(measure_of(first), search.expected or 0.0)
        second = _passed(world, search, second_pass(first, measure, search.share), "second pass")
        job = CollectiveJob(
            (), (), search.ranks * place.nodes, search.backend, 1, 0, search.timeout, None, place.nodes
        )
        seen = networks_seen(world, job, logs)
        channels = network_channels(seen, job)
    verdict = judge_pairs(first, second, search.share, search.expected)
    reason = worded(verdict, place.nodes)
    say(reason)
    symptom = verdict.outcome in {PairOutcome.NAMED, PairOutcome.UNNAMED, PairOutcome.ALL_SLOW} or bool(
        verdict.slow
    )
    return Findings(
        measurements=[*_measurements(first, second, verdict, search, place.nodes), *channels],
        status="symptom" if symptom else "ok",
        reason=reason if symptom else None,
        requested={"bytes": search.size, "slow_node": search.slow_node},
        effective={"nodes": place.nodes, "ranks": search.ranks, "backend": search.backend},
        details={
            "injected": None
            if search.slow_node is None
            else f"node {search.slow_node} at {search.slow_rate:g} B/s",
            "outcome": verdict.outcome.value,
            "named": list(verdict.named),
            "pairs": [{"nodes": list(pair), "bandwidth": rate} for pair, rate in {**first, **second}.items()],
            "network": {f"node {node}": str(network) for node, (network, _) in seen.items()},
        },
    )


def worded(verdict: PairVerdict, nodes: int) -> str:
    """The verdict in one line."""
    level = format_value(verdict.measure, "B/s")
    pairs = ", ".join(f"{one}-{other}" for one, other in verdict.slow[:5])
    if verdict.outcome is PairOutcome.NAMED:
        which = ("node " if len(verdict.named) == 1 else "nodes ") + ranges(verdict.named)
        also = "slow with every partner, also with one that is fast with others"
        return f"{which} of {nodes}: {also}; others reach {level}"
    if verdict.outcome is PairOutcome.UNNAMED:
        return f"slow pairs {pairs}; each of their nodes is fast with another: look at the way between them, and repeat"
    if verdict.outcome is PairOutcome.ALL_SLOW:
        every = counted(len(verdict.slow), "pair")
        return f"all {every} are below {level}: a common cause, such as the fabric or a setting"
    if verdict.outcome is PairOutcome.TOO_FEW:
        said = (
            f"the pair is slow, below {level}"
            if verdict.slow
            else "the pair has no other to be compared with"
        )
        return f"{said}; with two nodes none can be named: add a third"
    return f"no pair of {nodes} nodes is slow; they reach {level}"


def _search(arguments: argparse.Namespace, place: JointPlace) -> PairSearch:
    gpus = visible_count()
    backend = arguments.backend if arguments.backend != "auto" else "nccl" if gpus else "gloo"
    ranks = arguments.ranks if arguments.ranks is not None else (gpus if backend == "nccl" else 1)
    share = SHARES[backend] if arguments.slow_below is None else arguments.slow_below
    size = parse_bytes(arguments.size or _SIZES[backend]) // 4 * 4
    if ranks < 1 or (backend == "nccl" and ranks > gpus):
        raise InputError(
            f"--ranks {ranks}: {counted(gpus, 'GPU')} visible on this node (--backend gloo needs none)"
        )
    if not 0 < share < 1 or arguments.iterations < 1 or arguments.timeout <= 0 or size < 1:
        raise InputError(
            "--slow-below is between 0 and 1; --iterations, --timeout and --size must be above zero"
        )
    slow_node = arguments.slow_node
    if slow_node is not None and not 0 <= slow_node < place.nodes:
        raise InputError(f"--slow-node {slow_node}: the nodes are 0 to {place.nodes - 1}")
    expected = None if arguments.expect is None else float(parse_bytes(arguments.expect))
    return PairSearch(
        backend, ranks, size, arguments.iterations, arguments.timeout, share, expected, slow_node,
        float(parse_bytes(arguments.slow_rate)),
    )  # fmt: skip


def _start(
    search: PairSearch, place: JointPlace, logs: Path, deadline: float
) -> Callable[[Across, Callable[[], None]], World]:
    program = ["-m", "runner.kit.pairs.worker", f"--backend={search.backend}", f"--timeout={search.timeout}"]
    if search.slow_node == place.node:
        program.append(f"--slow-rate={search.slow_rate}")
    environment = joint_environment(place)
    if search.backend == "nccl":
        environment |= logging_environment(logs)
        environment["NCCL_DEBUG_SUBSYS"] += ",NET"

    def start(across: Across, meanwhile: Callable[[], None]) -> World:
        return World(program, search.ranks, environment, deadline, across=across, meanwhile=meanwhile)

    return start


def _passed(
    world: JointWorld, search: PairSearch, rounds: Sequence[Sequence[Pair]], doing: str
) -> dict[Pair, float]:
    """The algorithm bandwidth of each pair × bus factor, of the median iteration and the slowest rank."""
    found: dict[Pair, float] = {}
    factor = bus_factor("all_reduce", 2 * search.ranks)
    for pairs, groups in zip(rounds, wanted_groups(rounds, search.ranks), strict=True):
        command: dict[str, Any] = {"groups": groups, "bytes": search.size}
        answers = world.ask(
            {**command, "warmup": _WARMUP, "iterations": search.iterations}, f"timing pairs, {doing}"
        )
        for pair, ranks in zip(pairs, groups, strict=True):
            times = zip(*(answers[rank]["seconds"] for rank in ranks), strict=True)
            found[pair] = search.size * factor / median(max(one) for one in times)
    for (one, other), rate in found.items():
        say(f"{doing}: nodes {one} and {other}: {format_value(rate, 'B/s')}")
    return found


def _measurements(
    first: Mapping[Pair, float],
    second: Mapping[Pair, float],
    verdict: PairVerdict,
    search: PairSearch,
    nodes: int,
) -> list[Measurement]:
    labels: dict[str, Any] = {
        "backend": search.backend,
        "nodes": nodes,
        "injected": search.slow_node is not None,
    }
    slowest = min({**first, **second}.values())
    found = [
        measured("pair_bandwidth", list(first.values()), **labels, bytes=search.size),
        single("slowest_pair_ratio", slowest / measure_of(first), **labels),
        single("slow_pairs", len(verdict.slow), **labels),
        single("slow_nodes", len(verdict.named), **labels),
    ]
    if search.slow_node is not None:
        found.append(single("slow_node_named", float(verdict.named == (search.slow_node,)), **labels))
    return found
