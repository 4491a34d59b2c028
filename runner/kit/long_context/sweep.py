"""Measures every length, finds the longest prompt that fits, and compares remedies. The runner is a parameter."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from runner.base.units import format_value
from runner.kit.budget import Budget
from runner.kit.interleaved import Rounds, interleaved, paired_ratios
from runner.kit.long_context.bench import Reached, Runs
from runner.kit.long_context.growth import MemoryGrowth, fit_growth
from runner.kit.long_context.question import Question, describe_parts
from runner.kit.probe import say
from runner.sizing.limits import MARGIN, footprint, longest
from runner.sizing.models import ModelShape
from runner.sizing.remedies import memory_remedies
from runner.sizing.work import ModelWork

# A prompt this many times the predicted longest one must run out of memory.
BEYOND = 1.25
# A change of a training step is compared where it is predicted to save this share of the peak, or more.
_WORTH = 0.05
ACTIVATION_CHECKPOINTING = "full activation checkpointing"


@dataclass(frozen=True)
class LengthRow:
    """One length, on every rank.

    Attributes:
        seconds: wall time; on a GPU of a second run, whose kernels are loaded and whose memory is reserved. None where
            there was no time or no memory for it.
    """

    work: ModelWork
    ranks: tuple[Reached, ...]
    seconds: float | None = None

    @property
    def tokens(self) -> int:
        """Length in tokens."""
        return self.work.tokens

    @property
    def worst(self) -> Reached:
        """The rank that ran out of memory, or had the highest peak."""
        return max(self.ranks, key=lambda one: (one.over is not None, one.peak))

    @property
    def fits(self) -> bool:
        """Whether no rank ran out of memory."""
        return self.worst.over is None


@dataclass(frozen=True)
class Limit:
    """The longest prompt within a budget, and its verification.

    Attributes:
        arithmetic: by the formulas, with a margin and the allocator's reserve.
        fitted: by the measured growth, with the same margin; None if too few lengths fitted.
        at, beyond: runs at the predicted length and at `BEYOND` times it; None above the model's maximum.
    """

    arithmetic: int
    fitted: int | None
    at: LengthRow | None
    beyond: LengthRow | None


@dataclass(frozen=True)
class RemedyComparison:
    """One remedy compared with none, at one length.

    Attributes:
        predicted: bytes saved according to the formulas.
        plain, changed: the two measurements.
        time_ratios: seconds with it ÷ without, pair by pair.
    """

    name: str
    flags: str
    predicted: int
    plain: LengthRow
    changed: LengthRow
    time_ratios: tuple[float, ...]


@dataclass(frozen=True)
class SweptLengths:
    """The results of a sweep."""

    rows: tuple[LengthRow, ...]
    growth: MemoryGrowth | None
    limit: Limit | None = None
    comparisons: tuple[RemedyComparison, ...] = ()


def sweep(
    question: Question, runs: Runs, within: Budget, *, find_limit: bool, compare_rounds: int
) -> SweptLengths:
    """Run every length, in the given order; then the limit and the remedies, if requested.

    Args:
        question: the question.
        runs: runs the work.
        within: the time limit; when it ends, only the timed runs of a GPU and rounds of the comparison are left out.
        find_limit: predict the longest prompt within the budget and verify it by two runs.
        compare_rounds: maximum rounds in which each remedy is interleaved with no remedy; 0 for no comparison.
    """
    rows = tuple(_timed(question, runs, tokens, within) for tokens in question.lengths)
    grown = fit_growth(_alike(question, rows))
    limit = None
    if find_limit and question.budget is not None:
        limit = _limit(question, runs, grown, question.budget, reserve_share(question, rows))
    fitting = [row for row in rows if row.fits]
    compared: tuple[RemedyComparison, ...] = ()
    if compare_rounds and fitting:
        longest_row = max(fitting, key=lambda row: row.tokens)
        compared = tuple(_compared(question, runs, longest_row, compare_rounds, within))
    return SweptLengths(rows, grown, limit, compared)


def reserve_share(question: Question, rows: tuple[LengthRow, ...]) -> float:
    """Bytes that a GPU's allocator takes beyond those of tensors, as a share of all that grow with the prompt.

    Taken from runs that filled the budget. Another run has given nothing back, so what it reserved says nothing; 0
    without a telling run, or without a GPU.
    """
    return max((_share(question, row, one) for row in rows for one in row.ranks), default=0.0)


def _share(question: Question, row: LengthRow, one: Reached) -> float:
    if one.reserve is None or one.reserved is None:
        return 0.0
    if one.over is None and (question.budget is None or one.reserved + one.reserve <= question.budget):
        return 0.0
    found = footprint(question.shape, row.work)
    return one.reserve / (found.total - found.weights - found.optimizer + one.reserve)


def _alike(question: Question, rows: tuple[LengthRow, ...]) -> dict[int, int]:
    """Peaks of the lengths whose peak is at the same point as the longest one's; if that changes, growth has a kink."""
    moments = {row.tokens: _moment(question, row.work) for row in rows if row.fits}
    last = moments.get(max(moments, default=0))
    return {row.tokens: row.worst.peak for row in rows if moments.get(row.tokens) == last and row.fits}


def _moment(question: Question, work: ModelWork) -> tuple[str, bool]:
    return footprint(question.shape, work).moment, work.chunk is None or work.tokens > work.chunk


def _timed(question: Question, runs: Runs, tokens: int, within: Budget) -> LengthRow:
    """A measured length with its time; on a GPU that takes a second run."""
    row = _measured(question, runs, tokens)
    first = max(one.seconds for one in row.ranks)
    if not question.gpu or not row.fits:
        return replace(row, seconds=first)
    return replace(row, seconds=_seconds(runs, row.work)) if within.has(first) else row


def _seconds(runs: Runs, work: ModelWork) -> float | None:
    """Wall time of the slowest rank, without the tracking of memory; None if one ran out of memory.

    What an earlier run left reserved can be of the wrong sizes for a work that fitted from the weights alone.
    """
    ranks = runs.run(work, followed=False)
    return max(one.seconds for one in ranks) if all(one.over is None for one in ranks) else None


def _measured(question: Question, runs: Runs, tokens: int) -> LengthRow:
    work = question.at(tokens)
    row = LengthRow(work, runs.run(work))
    reached = row.worst
    said = f"stopped at {reached.done:.0%}: {reached.over}" if reached.over else "fits"
    predicted = describe_parts(footprint(question.shape, work))
    say(f"{tokens} tokens: peak {format_value(reached.peak, 'B')}, {predicted}; {said}")
    if reached.over is not None:
        held = ", ".join(f"{name} {format_value(size, 'B')}" for name, size in reached.held.items() if size)
        say(f"  held there: {held}")
    return row


def _limit(question: Question, runs: Runs, grown: MemoryGrowth | None, budget: int, reserve: float) -> Limit:
    most, margin = question.shape.max_positions, MARGIN + reserve
    by_arithmetic = longest(question.shape, question.work, budget, margin)
    fitted = grown.longest(budget, most, margin) if grown else None
    target = by_arithmetic if fitted is None else fitted
    by_growth = f", {fitted} by the measured growth" if fitted is not None else ""
    whose = f", {reserve:.1%} of it for the allocator's reserve" if reserve else ""
    say(
        f"longest that fits: {by_arithmetic} tokens by formula{by_growth};"
        f" {margin:.1%} of the free memory kept{whose}"
    )
    at = _measured(question, runs, target) if target else None
    further = int(target * BEYOND)
    beyond = _measured(question, runs, further) if target and further <= most else None
    return Limit(by_arithmetic, fitted, at, beyond)


def _compared(
    question: Question, runs: Runs, plain: LengthRow, rounds: int, within: Budget
) -> Iterator[RemedyComparison]:
    arms = list(_arms(question.shape, plain.work))
    changed = {name: LengthRow(work, runs.run(work)) for name, _, work, _ in arms}
    if question.gpu and arms:
        # It takes the most memory. What it reserves here is reserved in every round.
        runs.run(plain.work, followed=False)
    works = {"": plain.work} | {name: work for name, _, work, _ in arms if changed[name].fits}

    def seconds(name: str, _: int) -> float | None:
        return _seconds(runs, works[name])

    def late(number: int) -> None:
        say(f"ran {number} of {rounds} rounds: time limit")

    most = rounds if arms else 0
    taken = interleaved(
        {name: partial(seconds, name) for name in works},
        Rounds(most, within, expect=lambda took: took[-1], late=late, first=1),
    )
    for name, flags, _, predicted in arms:
        ratios = tuple(paired_ratios(taken[name], taken[""])) if name in taken else ()
        yield RemedyComparison(name, flags, predicted, plain, changed[name], ratios)


def _arms(shape: ModelShape, work: ModelWork) -> Iterator[tuple[str, str, ModelWork, int]]:
    """The remedies that can be compared on these devices: not another batch size or number of devices.

    Of a training step, only those that the formulas predict to matter: where gradients have the peak, activations do
    not.
    """
    peak = footprint(shape, work).total
    for one in memory_remedies(shape, work, sys.maxsize, gpus=work.tensor_parallel):
        if (one.work.batch, one.work.tensor_parallel) != (work.batch, work.tensor_parallel):
            continue
        if work.training is None or one.saves >= _WORTH * peak:
            yield one.name, one.flags, one.work, one.saves
        else:
            say(
                f"{one.name} not compared: it saves {one.saves / peak:.1%} of {work.tokens} tokens' peak by formula"
            )
    if work.training is None and work.checkpointing == "none":
        # Often recommended for a decode stack; according to the formulas it saves nothing there.
        checkpointed = replace(work, checkpointing="full")
        yield ACTIVATION_CHECKPOINTING, "--activation-checkpointing full", checkpointed, 0
