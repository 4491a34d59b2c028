"""Collectives timed on ranks in one environment or several, interleaved: their bandwidth, and wrong elements. No torch.

Bus bandwidth is algorithm bandwidth × a factor, so that it can be compared with the links and across rank counts
(factors and byte counts as in nccl-tests' PERFORMANCE.md).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from runner.base.stats import FEWEST_FOR_BOOTSTRAP
from runner.base.units import format_bytes, format_value
from runner.kit.budget import Budget
from runner.kit.interleaved import Rounds, interleaved, no_time, paired_ratios
from runner.kit.joint import JointWorld
from runner.kit.nccl.log import logging_environment
from runner.kit.probe import measured, say, single
from runner.kit.ranks import Across, World
from runner.record.model import Measurement

ELEMENT = 4
_ROUNDS = 10
_MOST_IN_A_ROUND = 64


@dataclass(frozen=True)
class CollectiveJob:
    """The collectives to time.

    Attributes:
        ops: the names that `collectives_worker` knows.
        sizes: of a message, in bytes.
        ranks, backend: number of ranks, on all nodes together, over `nccl` or `gloo`.
        iterations, warmup: timed and untimed iterations of each size.
        timeout: seconds until a rank that does not answer is an error.
        port: rendezvous port; None for a free one.
        nodes: how many nodes the ranks are on.
    """

    ops: tuple[str, ...]
    sizes: tuple[int, ...]
    ranks: int
    backend: str
    iterations: int
    warmup: int
    timeout: float
    port: int | None
    nodes: int = 1

    @property
    def labels(self) -> dict[str, Any]:
        """Of its measurements."""
        return {"ranks": self.ranks, "backend": self.backend} | (
            {"nodes": self.nodes} if self.nodes > 1 else {}
        )


def bus_factor(op: str, ranks: int) -> float:
    """Bus bandwidth ÷ algorithm bandwidth of a collective over `ranks` ranks (nccl-tests, PERFORMANCE.md)."""
    if op == "broadcast":
        return 1.0
    return (2.0 if op == "all_reduce" else 1.0) * (ranks - 1) / ranks


def whole_size(op: str, size: int, ranks: int) -> int:
    """The size rounded up to whole elements, and to equal pieces if the collective splits the message."""
    unit = ELEMENT if op in {"all_reduce", "broadcast"} else ELEMENT * ranks
    return math.ceil(size / unit) * unit


def ranks_of(
    job: CollectiveJob,
    arm: str,
    environment: Mapping[str, str],
    logs: Path,
    deadline: float,
    across: Across | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> World:
    """The ranks of one environment on this node; over NCCL, they log into the folder `logs`, which must not exist.

    `across` and `meanwhile`: as for `World`.
    """
    program = ("-m", "runner.kit.collectives_worker", f"--backend={job.backend}", f"--timeout={job.timeout}")
    logs.mkdir()
    if job.backend == "gloo":
        # If all ranks are on this host, its host name may not resolve to a reachable address.
        here = {} if across else {"GLOO_SOCKET_IFNAME": "lo"}
        environment = here | dict(environment)
    else:
        environment = dict(environment) | logging_environment(logs)
        if across:
            # For the lines about HCAs.
            environment["NCCL_DEBUG_SUBSYS"] += ",NET"
    # Two arms cannot share one port: the second uses the next.
    port = None if job.port is None else job.port + (arm == "clean")
    return World(program, job.ranks // job.nodes, environment, deadline, arm, port, across, meanwhile)


def time_collective(
    arms: Mapping[str, World | JointWorld], job: CollectiveJob, op: str, size: int, until: Budget
) -> list[Measurement]:
    """The measurements of a collective in every environment, and the ratio of `clean` to `caller` if both are there.

    Args:
        arms: the ranks of each environment.
        job: the job.
        op: the collective.
        size: of a message in bytes, as `whole_size` gives it.
        until: after five rounds, none is begun when this has ended.

    Raises:
        RankError: a rank died or gave no answer.
    """
    what = {"op": op, "bytes": size}
    where = f"{op} of {format_bytes(size)}"
    labels: dict[str, Any] = {**what, **job.labels}
    found: list[Measurement] = []
    for name, world in arms.items():
        wrong = sum(answer["wrong"] for answer in world.ask({**what, "check": True}, f"checking {where}"))
        found.append(single("wrong_elements", wrong, **labels, arm=name))
        world.ask({**what, "warmup": job.warmup, "iterations": 1}, f"warming up {where}")
    iterations = _in_rounds(job.iterations)

    def slowest(arm: str, number: int) -> list[float]:
        command = {**what, "warmup": 1, "iterations": iterations[number]}
        answers = arms[arm].ask(command, f"timing {where}")
        return [max(times) for times in zip(*(answer["seconds"] for answer in answers), strict=True)]

    def late(number: int) -> None:
        say(f"{where}: ran {sum(iterations[:number])} of {job.iterations} iterations: time limit")

    rounds = Rounds(len(iterations), until, fewest=FEWEST_FOR_BOOTSTRAP, expect=no_time, late=late)
    taken = interleaved({arm: partial(slowest, arm) for arm in arms}, rounds)
    factor = bus_factor(op, job.ranks)
    across = f" on {job.nodes} nodes" if job.nodes > 1 else ""
    # The caller's arm last: the last number is the headline of the step.
    for name in reversed(taken):
        times = list(chain.from_iterable(taken[name]))
        found += [
            measured("bus_bandwidth", [size * factor / t for t in times], **labels, arm=name),
            measured("algorithm_bandwidth", [size / t for t in times], **labels, arm=name),
            measured("collective_time", times, **labels, arm=name),
            measured("collective_time_p95", times, "p95", **labels, arm=name),
        ]
        bus, *_, p50, p95 = (format_value(one.value, one.unit) for one in found[-4:])
        say(f"{where}, {job.ranks} ranks{across}, {job.backend}, {name}: bus {bus}, p50 {p50}, p95 {p95}")
    if "clean" in arms:
        clean, caller = (map(median, taken[arm]) for arm in ("clean", "caller"))
        found.append(measured("environment_ratio", paired_ratios(clean, caller), **labels))
    return found


def _in_rounds(iterations: int) -> list[int]:
    """Iterations of each round: up to ten rounds, or more if a round would be too long."""
    rounds = max(min(_ROUNDS, iterations), math.ceil(iterations / _MOST_IN_A_ROUND))
    return [iterations // rounds + (number < iterations % rounds) for number in range(rounds)]
