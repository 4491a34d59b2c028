"""What a guard costs: the step with it and without it, interleaved, as a ratio with its interval.

One sample is the ratio of two medians over a block of steps in ABBA order, because single steps vary by more than a
guard costs. Samples are taken until the interval is on one side of the bound, or 24 of them, or the time is over.
"""

from collections.abc import Callable
from statistics import median

from runner.base.sequential import FEWEST, MOST, answer, repeated_interval
from runner.kit.budget import budget, seconds_of
from runner.kit.interleaved import Rounds, interleaved
from runner.kit.probe import Findings, measured, say, single
from runner.kit.steps.topic import Topic
from runner.record.evaluation import STOPPED
from runner.vocabulary.sources import DRILL

STEP_S = 0.05
"""The step that costs are stated for, in seconds; a step that does not reach it says so in `bare_step_time`."""

_PAIRS, _BLOCK = 10, 2
_DEFAULT_S = 150.0


def guard_cost(topic: Topic, seed: int) -> Findings:
    """Measure the cost of the guard of a topic. The symptom: it costs more than its bound.

    Raises:
        ValueError: the topic has no guard.
    """
    if topic.most_cost is None:
        raise ValueError(f"topic {topic.name} has no guard")
    within = budget(_DEFAULT_S)
    with topic.arms(seed) as arms:
        device = _device()

        def timed(step: Callable[[int], object]) -> Callable[[int], float]:
            return lambda number: seconds_of(lambda: step(number), device)

        both = {"bare": timed(arms.bare), "guarded": timed(arms.guarded)}
        interleaved(both, Rounds(_BLOCK, within))
        ratios: list[float] = []
        bare: list[float] = []

        def block(_: int) -> float:
            taken = interleaved(both, Rounds(_PAIRS, within, fewest=_PAIRS, passes=_BLOCK))
            bare.append(median(taken["bare"]))
            ratios.append(1 + (median(taken["guarded"]) / bare[-1] - 1) / topic.every)
            return ratios[-1]

        bound = topic.most_cost
        interleaved(
            {"block": block},
            Rounds(
                MOST,
                within,
                fewest=FEWEST,
                enough=lambda _: answer(repeated_interval(ratios), bound) != "undecided",
            ),
        )
    interval = repeated_interval(ratios)
    above = answer(interval, bound) == "above"
    cost = measured("guard_cost", ratios, STOPPED, guard=topic.name)
    often = f" once in {topic.every} steps" if topic.every > 1 else ""
    sentence = (
        f"a step of {median(bare) * 1e3:.0f} ms takes {cost.value:.4f} times as long with the guard{often}"
        f" (95 % interval {interval.low:.4f} to {interval.high:.4f}; at most {bound:g})"
    )
    say(sentence)
    return Findings(
        measurements=[cost, single("bare_step_time", median(bare), guard=topic.name)],
        status="symptom" if above else "ok",
        reason=sentence if above else None,
        requested={"topic": topic.name},
        effective={"source": DRILL, "device": device},
    )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
