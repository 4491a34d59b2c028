"""What is reported of drills in which ranks vote: one with a flipped bit, or healthy ones."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.base.errors import RankError
from runner.kit.drill.drill_report import DrillReport, Labels, score
from runner.kit.drill.injection import Injection
from runner.kit.drill.job import DrilledRanks, JobShape, drilled_ranks
from runner.kit.drill.voting import bit_of
from runner.kit.probe import NotApplicableError, say, single

KINDS = ("sticky", "intermittent", "parameter")
"""Of flips, by seed: in every run of a rank's work, in every second one, in a parameter of its replica."""

_STEPS, _EVERY = 13, 3
_FEWEST = 3
_PLACES = 1 << 12


@dataclass(frozen=True)
class VoteDrill:
    """One loop: its flip, None without one, and what every rank decided in each vote, which is the same on all."""

    flip: dict[str, Any] | None
    votes: Sequence[dict[str, Any]]
    replicas: Sequence[dict[str, Any]]

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Those of votes and of comparisons of replicas."""
        return [*self.votes, *self.replicas]

    @property
    def named(self) -> bool:
        """Whether the culprit, it alone, is named from its step on, by what can see its flip, and as what it is."""
        if self.flip is None:
            return False
        can, cannot = self.votes, self.replicas
        if self.flip["kind"] == "parameter":
            can, cannot = cannot, can
        late = [one for one in can if one["step"] >= self.flip["step"]]
        early = [one for one in can if one["step"] < self.flip["step"]]
        right = all(one["named"] == [self.flip["rank"]] for one in late)
        if self.flip["kind"] != "parameter":
            right &= all(one["sticky"] == [self.flip["kind"] == "sticky"] for one in late)
        return bool(late) and right and all(one["outcome"] == "agree" for one in [*early, *cannot])

    @property
    def wrong(self) -> bool:
        """Whether another rank is named."""
        culprit = self.flip["rank"] if self.flip else None
        return any(rank != culprit for one in self.decisions for rank in one["named"])

    @property
    def found(self) -> str | None:
        """The first sentence about a difference."""
        return next((one["sentence"] for one in self.decisions if one["differs"]), None)


def report_votes(
    shape: JobShape, faults: Sequence[Injection | None], first_seed: int, labels: Labels
) -> DrillReport:
    """Let ranks train and vote, with a flip in one of them or without (None).

    Raises:
        NotApplicableError: healthy ranks that a vote cannot call healthy: two, or unequal ones.
        RankError: a rank ended, or did not answer.
    """
    if shape.ranks < _FEWEST and None in faults:
        raise NotApplicableError("two ranks decide nothing; a vote needs --ranks 3 or more")
    drills, changed = [], False
    with drilled_ranks(shape) as drilled:
        for turn, fault in enumerate(faults):
            flip = _flip_of(fault, first_seed + turn)
            answers = _loop(drilled, _EVERY, flip)
            drills.append(_drill_of(flip, answers))
            if flip is None:
                bare = _loop(drilled, 0, None)
                changed |= [one["state"] for one in bare] != [one["state"] for one in answers]
            say(f"{_in_words(flip)}: {drills[-1].found or 'all ranks agree'}")
        drilled.local.dismiss()
    measurements = score(
        [one.named for one in drills],
        [one.wrong for one in drills],
        labels,
        injected=any(fault is not None for fault in faults),
    )
    unknown = sum(any(one["outcome"] == "unknown" for one in drill.decisions) for drill in drills)
    if unknown and None in faults:
        raise NotApplicableError(f"the ranks are not comparable: {drills[0].decisions[0]['sentence']}")
    measurements.append(single("votes_unknown", unknown, **labels))
    if None in faults:
        measurements.append(single("job_state_changed", int(changed), **labels))
    found = [one.found for one in drills if one.found]
    details = [
        {"flip": _in_words(one.flip), "named": one.named, "votes": one.votes, "replicas": one.replicas}
        for one in drills
    ]
    return DrillReport(measurements, found[0] if found else None, {"drills": details})


def _flip_of(fault: Injection | None, seed: int) -> dict[str, Any] | None:
    if fault is None:
        return None
    place = random.Random(seed).randrange(_PLACES)  # noqa: S311 - a choice that can be repeated, not a secret
    kind = KINDS[seed % len(KINDS)]
    return {"kind": kind, "rank": fault.rank, "step": fault.step, "place": place, "bit": bit_of(seed)}


def _drill_of(flip: dict[str, Any] | None, answers: Sequence[dict[str, Any]]) -> VoteDrill:
    first = answers[0]
    for rank, one in enumerate(answers):
        if (one["votes"], one["replicas"]) != (first["votes"], first["replicas"]):
            raise RankError(f"rank {rank} decided otherwise than rank 0 about the same vote")
    return VoteDrill(flip, first["votes"], first["replicas"])


def _loop(drilled: DrilledRanks, every: int, flip: dict[str, Any] | None) -> list[dict[str, Any]]:
    command = {"do": "vote", "count": _STEPS, "every": every, "flip": flip}
    return drilled.local.ask(command, "training and voting")


def _in_words(flip: dict[str, Any] | None) -> str:
    if flip is None:
        return "healthy ranks"
    return (
        f"injected: {flip['kind']} flip of bit {flip['bit']} on rank {flip['rank']} from step {flip['step']}"
    )
