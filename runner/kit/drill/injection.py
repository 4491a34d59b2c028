"""Which fault a drill injects: the rank, the step and the place, all from a seed. No torch here."""

import random
from dataclasses import asdict, dataclass
from typing import Any, Self

COLLECTIVES = ("reduce_gradient", "gather_metrics", "reduce_norm", "meet")
"""The places of a step, in order. `meet` is a barrier, in every third step only."""

BARRIER_EVERY = 3
# The fault comes after some healthy steps, which are in the flight recorder then, and before the last ones.
_FIRST_STEP, _LATEST_STEP = 3, 8
# Another size is defined for a reduction only.
_REDUCTIONS = ("reduce_gradient", "reduce_norm")


@dataclass(frozen=True)
class Injection:
    """One fault.

    Attributes:
        fault: one of `FAULTS`.
        rank: the culprit.
        step: the step, counted from 0, in which it comes.
        place: the collective before which, or instead of which, it comes.
        busy: whether a late rank computes; else it sleeps, in its loader.
    """

    fault: str
    rank: int
    step: int
    place: str
    busy: bool = False

    def as_command(self) -> dict[str, Any]:
        """As a rank receives it."""
        return asdict(self)

    @classmethod
    def of_command(cls, fields: dict[str, Any]) -> Self:
        """As it was sent."""
        return cls(**fields)


def places_of(step: int) -> tuple[str, ...]:
    """The collectives of a step, in order."""
    return COLLECTIVES if step % BARRIER_EVERY == 0 else COLLECTIVES[:-1]


def chosen(fault: str, seed: int, ranks: int) -> Injection:
    """The fault for a seed: the rank, one of the middle steps, a place of it at which this fault can be.

    Seeds that follow each other give different ranks. A rank that is late in its loader is late at the first collective
    of the step.
    """
    mixed = random.Random(fault)  # noqa: S311 - a choice that can be repeated, not a secret
    possible = [
        (step, place, busy)
        for step in range(_FIRST_STEP, _LATEST_STEP)
        for place in places_of(step)
        for busy in ((True, False) if fault == "late" else (False,))
        if (fault != "shape" or place in _REDUCTIONS) and (fault != "late" or busy or place == COLLECTIVES[0])
    ]
    mixed.shuffle(possible)
    step, place, busy = possible[seed % len(possible)]
    return Injection(fault, (seed + mixed.randrange(ranks)) % ranks, step, place, busy)
