"""A drill of the steps: what each rank spends them on, with a busy neighbour beside one or without."""

from collections.abc import Iterator
from dataclasses import dataclass

from runner.kit.drill.hanging import HangDrill, look_at_healthy
from runner.kit.drill.injection import Injection
from runner.kit.drill.job import JobShape, drilled_ranks
from runner.kit.drill.neighbours import neighbours_of
from runner.kit.drill.split import RUNS, UNTIMED, Run, StepSplit, slow_in, split_of

_TIMEOUT_S = 120.0
# The injected step, and some after it.
_NAN_STEPS_AFTER = 2


@dataclass(frozen=True)
class StepsDrill:
    """What came of it.

    Attributes:
        injection: the fault; None for healthy ranks.
        split: the comparison of ranks.
        neighbours: busy processes beside the culprit.
        look: of healthy ranks, what a look at them said.
    """

    injection: Injection | None
    split: StepSplit
    neighbours: int = 0
    look: HangDrill | None = None

    @property
    def named(self) -> bool:
        """Whether the culprit is called slow."""
        return self.injection is not None and self.split.slow == self.injection.rank

    @property
    def wrong_certain(self) -> bool:
        """Whether another rank is called slow, or the look names one as certain."""
        slow = self.split.slow is not None and not self.named
        return slow or (self.look is not None and self.look.wrong_certain)


@dataclass(frozen=True)
class CensusDrill:
    """Elements that are not finite, by rank: `own`, in its gradient before the reduction, and `summed`, after it."""

    injection: Injection
    own: tuple[int, ...]
    summed: tuple[int, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """The ranks whose own gradient had any."""
        return tuple(rank for rank, count in enumerate(self.own) if count)


def drill_steps(shape: JobShape, fault: Injection | None, steps: int) -> StepsDrill:
    """Time steps of healthy ranks, or of ranks of which one has a neighbour.

    Args:
        shape: of the job.
        fault: `neighbour`; None: healthy ranks, which are also looked at.
        steps: of each run.

    Raises:
        NotApplicableError: there is one core.
        RankError: a rank ended, or did not answer.
    """
    with drilled_ranks(shape) as drilled:
        rehearsal = drilled.rehearse()

        def runs(*, held: bool) -> Iterator[Run]:
            for turn in range(RUNS):
                if not held:
                    drilled.spread_anew(turn)
                yield drilled.steps(steps + UNTIMED, rehearsal, _TIMEOUT_S)

        if fault is not None:
            with neighbours_of(fault.rank, drilled, rehearsal) as neighbours:
                split = split_of(_while_suspected(runs(held=True)))
        else:
            neighbours = 0
            split = split_of(_while_suspected(runs(held=False)))
        look = look_at_healthy(drilled, rehearsal) if fault is None else None
        drilled.local.dismiss()
    return StepsDrill(fault, split, neighbours, look)


def _while_suspected(runs: Iterator[Run]) -> list[Run]:
    """The runs up to the first in which another rank than before is slow, or none."""
    taken: list[Run] = []
    suspects: set[int | None] = set()
    for run in runs:
        taken.append(run)
        suspects.add(slow_in(run))
        if None in suspects or len(suspects) > 1:
            break
    return taken


def drill_nan(shape: JobShape, fault: Injection) -> CensusDrill:
    """Run steps in which one rank's gradient gets a NaN, and count what each rank has.

    Raises:
        RankError: a rank ended, or did not answer.
    """
    with drilled_ranks(shape) as drilled:
        rehearsal = drilled.rehearse()
        drilled.begin(fault.step + 1 + _NAN_STEPS_AFTER, rehearsal, _TIMEOUT_S, fault)
        answers = [answer["steps"] for answer in drilled.local.ask(None, "running steps")]
        drilled.local.dismiss()
    own, summed = (
        tuple(sum(int(step[name]) for step in steps) for steps in answers) for name in ("own", "summed")
    )
    return CensusDrill(fault, own, summed)
