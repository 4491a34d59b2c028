"""Flipped bits and three methods that look for them; the same work without a fault, on every visible device.

`repeat` compares the bits of two runs on one device, `checksum` the sums of the columns of a product, `vote` the bits
of several devices. Flips go into a product of float32: bits 0 to 22 are its mantissa, 23 to 30 its exponent.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.guards.gemm_checksum import checksum_gap
from runner.guards.sdc_vote import FixedWork, VoteVerdict, bits_digest, decide_vote, kind_of
from runner.kit.budget import budget
from runner.kit.flips import BitFlip, flip_bit
from runner.kit.interleaved import Rounds
from runner.kit.probe import Findings, say, single
from runner.kit.steps.corruption.declared import INTERMITTENT
from runner.kit.steps.corruption.reordered import reordered
from runner.record.model import Measurement
from runner.vocabulary.sources import DRILL

if TYPE_CHECKING:
    import torch

METHODS = ("repeat", "checksum", "vote")
BITS: Mapping[str, range] = {
    "0-7": range(8), "8-15": range(8, 16), "16-22": range(16, 23), "23-30": range(23, 31), "31": range(31, 32)
}  # fmt: skip
# Of the product that the checksum is about; of the work of a vote, which needs no speed here.
_SIDE, _VOTE_SIDE = 256, 64
_WORKERS, _FIRST_ITEM, _RUNS = 3, 0, 2
_DEFAULT_S = 200.0


@dataclass
class _Tally:
    """What the methods found: alarms by method, and what they said of it."""

    alarms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))
    said: list[str] = field(default_factory=list)

    def add(self, method: str, found: bool, what: str) -> None:
        if found:
            self.alarms[method] += 1
            self.said.append(f"{method}: {what}")


def run(arguments: argparse.Namespace) -> Findings:
    """Run the drill. The symptom: an injected flip was found, or anything in work without one."""
    if arguments.fault == "none":
        return _without_fault(arguments.steps * arguments.repeat)
    return _with_flips(arguments.fault, arguments.steps * arguments.repeat, arguments.seed)


def _with_flips(fault: str, trials: int, seed: int) -> Findings:
    import torch

    device = _devices()[0]
    work = FixedWork(device, _SIDE)
    left, right = work.filled(_SIDE, _SIDE, 1), work.filled(_SIDE, _SIDE, 2)
    chance = random.Random(seed)  # noqa: S311 - a choice that can be repeated, not a secret
    found = {(method, bits): 0 for method in METHODS for bits in BITS}
    innocent = 0
    taken = 0
    for _ in Rounds(trials, budget(_DEFAULT_S)):
        for bits, choice in BITS.items():
            place, bit = chance.randrange(_SIDE * _SIDE), chance.choice(choice)
            spoiled = [left @ right for _ in range(_RUNS)]
            for number, product in enumerate(spoiled):
                if fault != INTERMITTENT or number == _RUNS - 1:
                    flip_bit(product, place, bit)
            first, last = (bits_digest(product) for product in spoiled)
            found["repeat", bits] += not torch.equal(first, last)
            found["checksum", bits] += checksum_gap(left, right, spoiled[-1]) > 1
            culprit = chance.randrange(_WORKERS)
            verdict = _voted(device, culprit, place, bit, None if fault != INTERMITTENT else {_RUNS - 1})
            named = {one.rank for one in verdict.outliers}
            found["vote", bits] += named == {culprit}
            innocent += bool(named - {culprit})
        taken += 1
    return _report_flips(fault, device, found, taken, innocent)


def _voted(
    device: "torch.device", culprit: int, place: int, bit: int, only: "set[int] | None"
) -> VoteVerdict:
    """The vote of three workers on one device, of which one has a flip."""
    runs = []
    names: Sequence[str] = ()
    for worker in range(_WORKERS):
        work = FixedWork(device, _VOTE_SIDE)
        names = work.names
        if worker == culprit:
            work = FixedWork(device, _VOTE_SIDE, BitFlip(names[_FIRST_ITEM], place, bit, only))
        runs.append([[tuple(one) for one in run] for run in work.digests(_RUNS).tolist()])
    return decide_vote(runs, [kind_of(device)] * _WORKERS, names)


def _report_flips(
    fault: str, device: "torch.device", found: Mapping[tuple[str, str], int], trials: int, innocent: int
) -> Findings:
    measurements = [
        single("flip_detection", count / trials, device=device.type, method=method, bits=bits)
        for (method, bits), count in found.items()
    ]
    totals = {method: sum(found[method, bits] for bits in BITS) for method in METHODS}
    injected = trials * len(BITS)
    for method in METHODS:
        share = totals[method] / injected
        measurements.append(single("flip_detection", share, device=device.type, method=method, bits="all"))
    measurements.append(single("innocent_named", innocent, device=device.type, method="vote"))
    sentence = f"{fault}: of {injected} flips " + ", ".join(f"{one} finds {totals[one]}" for one in METHODS)
    say(sentence)
    return Findings(
        measurements=measurements,
        status="symptom" if any(totals.values()) else "ok",
        reason=sentence if any(totals.values()) else None,
        requested={"fault": fault},
        effective={"device": device.type, "workers": _WORKERS},
        details={"found": {f"{method} {bits}": count for (method, bits), count in found.items()}},
    )


def _without_fault(repeats: int) -> Findings:
    """Every visible GPU, or three workers on the CPU, does the same work again and again."""
    import torch

    devices = _devices()
    cpu = devices[0].type == "cpu"
    works = [FixedWork(device, _VOTE_SIDE if cpu else None) for device in devices * (_WORKERS if cpu else 1)]
    kinds = [kind_of(work.device) for work in works]
    products = [(work.filled(_SIDE, _SIDE, 1), work.filled(_SIDE, _SIDE, 2)) for work in works]
    firsts = [work.digests() for work in works]
    tally, taken, judged = _Tally(), 0, True
    for _ in Rounds(repeats, budget(_DEFAULT_S)):
        now = [work.digests() for work in works]
        for number, (work, first, last) in enumerate(zip(works, firsts, now, strict=True)):
            left, right = products[number]
            tally.add("repeat", not torch.equal(first, last), f"{work.device} differs from its first run")
            gap = checksum_gap(left, right, left @ right)
            tally.add("checksum", gap > 1, f"a product of {work.device} is {gap:.3g} times off")
        runs = [[[tuple(one) for one in run] for run in digests.tolist()] for digests in now]
        verdict = decide_vote(runs, kinds, works[0].names)
        judged &= not verdict.unjudged
        tally.add("vote", verdict.differs, verdict.sentence)
        taken += 1
    causes = reordered(devices[0], *products[0])
    measurements = _report_clean(devices[0].type, tally, taken, causes, judged=judged)
    say(f"{taken} repeats on {len(works)} workers: {tally.alarms}; other order, other bits: {dict(causes)}")
    if not judged:
        say(
            "fewer than three comparable GPUs: the vote is unknown, and only repeats and checksums were judged"
        )
    return Findings(
        measurements=measurements,
        status="symptom" if tally.said else "ok",
        reason=tally.said[0] if tally.said else None,
        requested={"fault": "none", "steps": repeats},
        effective={
            # Results of GPUs judge this node; three workers on one CPU show the method.
            "source": DRILL if cpu else "devices",
            "device": devices[0].type,
            "workers": len(works),
            "vote": "judged" if judged else "unknown",
        },
        details={"kinds": sorted(set(kinds)), "alarms": tally.said[:20]},
    )


def _report_clean(
    device: str, tally: _Tally, taken: int, causes: Mapping[str, bool], *, judged: bool
) -> list[Measurement]:
    return [
        single("clean_repeats", taken, device=device),
        *(
            single("false_alarms", count, device=device, method=method)
            for method, count in tally.alarms.items()
            # What could not be judged did not pass.
            if judged or method != "vote" or count
        ),
        *(
            single("reordered_differs", int(is_so), device=device, cause=cause)
            for cause, is_so in causes.items()
        ),
    ]


def _devices() -> "list[torch.device]":
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cuda", number) for number in range(count)] or [torch.device("cpu")]
