"""A NaN on one rank that trains under the guard, in DDP and in FSDP2: what every rank names. No torch here."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from runner.kit.children import ended_by_sigterm
from runner.kit.drill.drill_report import Labels
from runner.kit.drill.injection import Injection
from runner.kit.drill.job import JobShape
from runner.kit.probe import single
from runner.kit.ranks import World
from runner.record.model import Measurement

PARALLEL = ("ddp", "fsdp")
# Against a hang only.
_TIMEOUT_S, _DEADLINE_S = 120.0, 280.0


@dataclass(frozen=True)
class GuardedDrill:
    """What came of one.

    Attributes:
        parallel: `ddp` or `fsdp`.
        expected: the injected place and rank, in words.
        found: what the ranks named, in words, once.
        named: whether every rank named the injected step, module and rank, and nothing else.
        own: ranks with a value of their own that is not finite, before the reduction.
        after: ranks whose reduced gradients have one.
        changed: weights and optimizer states that the skipped step changed, over all ranks.
    """

    parallel: str
    expected: str
    found: str
    named: bool
    own: int
    after: int
    changed: int


def drill_guarded(shape: JobShape, faults: Sequence[Injection]) -> list[GuardedDrill]:
    """Train with each fault, in each kind of parallelism; the NaN is in an output or in a gradient, by turns.

    Raises:
        RankError: a rank ended, or did not answer.
    """
    program = [
        "-m",
        "runner.kit.drill.guarded_worker",
        f"--backend={shape.backend}",
        f"--timeout={_TIMEOUT_S:g}",
    ]
    # All ranks are on this host; its host name may not resolve to a reachable address.
    environment = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | dict(os.environ)
    drills = []
    with (
        ended_by_sigterm(),
        World(program, shape.ranks, environment, time.monotonic() + _DEADLINE_S) as world,
    ):
        world.ask(None, "joining the group")
        for turn, fault in enumerate(faults):
            phase = "gradient" if turn % 2 else "output"
            for parallel in PARALLEL:
                command = {
                    "parallel": parallel,
                    "phase": phase,
                    "seed": turn,
                    "rank": fault.rank,
                    "step": fault.step,
                }
                answers = world.ask(command, f"training in {parallel}")
                wanted = [fault.step, answers[0]["expected"], [fault.rank]]
                found = [one for answer in answers for one in answer["found"]]
                drills.append(
                    GuardedDrill(
                        parallel=parallel,
                        expected=f"{wanted[1]} on rank {fault.rank}",
                        found="; ".join(
                            dict.fromkeys(f"{place} on rank {ranks}" for _, place, ranks in found)
                        ),
                        named=all(answer["found"] == [wanted] for answer in answers),
                        own=sum(answer["own"] for answer in answers),
                        after=sum(answer["after"] for answer in answers),
                        changed=sum(answer["changed"] for answer in answers),
                    )
                )
    return drills


def guarded_measurements(drills: Sequence[GuardedDrill], labels: Labels) -> list[Measurement]:
    """The counts, by kind of parallelism."""
    measurements = []
    for parallel in PARALLEL:
        own = [one for one in drills if one.parallel == parallel]
        measurements.append(
            single("module_named", sum(one.named for one in own), **labels, parallel=parallel)
        )
        measurements.append(
            single("changed_by_skip", sum(one.changed for one in own), **labels, parallel=parallel)
        )
    return measurements
