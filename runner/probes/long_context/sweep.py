"""Measures every length, finds the longest prompt that fits, and compares remedies. The runner is a parameter."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runner.models import ModelShape
from runner.probes.budget import Budget
from runner.probes.contract import say
from runner.probes.long_context.bench import Reached, Runs
from runner.probes.long_context.growth import Growth, growth
from runner.probes.long_context.question import Question, describe_parts
from runner.sizing import MARGIN, Work, footprint, longest, remedies
from runner.units import format_value

# A prompt this many times the predicted longest one must run out of memory.
BEYOND = 1.25
ACTIVATION_CHECKPOINTING = "full activation checkpointing"


@dataclass(frozen=True)
class Row:
    """One length, on every rank."""

    work: Work
    ranks: tuple[Reached, ...]

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
        arithmetic: by the formulas, with a margin.
        fitted: by the measured growth, with the same margin; None if too few lengths fitted.
        at, beyond: runs at the predicted length and at `BEYOND` times it; None above the model's maximum.
    """

    arithmetic: int
    fitted: int | None
    at: Row | None
    beyond: Row | None


@dataclass(frozen=True)
class Comparison:
    """One remedy compared with none, at one length.

    Attributes:
        predicted: bytes saved according to the formulas.
        plain, changed: the two measurements.
        time_ratios: seconds with it ÷ without, pair by pair.
    """

    name: str
    flags: str
    predicted: int
    plain: Row
    changed: Row
    time_ratios: tuple[float, ...]


@dataclass(frozen=True)
class Swept:
    """The results of a sweep."""

    rows: tuple[Row, ...]
    growth: Growth | None
    limit: Limit | None = None
    comparisons: tuple[Comparison, ...] = ()


def sweep(question: Question, runs: Runs, within: Budget, *, find_limit: bool, compare_rounds: int) -> Swept:
    """Run every length, in the given order; then the limit and the remedies, if requested.

    Args:
        question: the question.
        runs: runs the work.
        within: the time limit; when it ends, only rounds of the comparison are left out.
        find_limit: predict the longest prompt within the budget and verify it by two runs.
        compare_rounds: maximum rounds in which each remedy is interleaved with no remedy; 0 for no comparison.
    """
    rows = tuple(_measured(question, runs, tokens) for tokens in question.lengths)
    grown = growth(_alike(question, rows))
    limit = None
    if find_limit and question.budget is not None:
        limit = _limit(question, runs, grown, question.budget)
    fitting = [row for row in rows if row.fits]
    compared: tuple[Comparison, ...] = ()
    if compare_rounds and fitting:
        longest_row = max(fitting, key=lambda row: row.tokens)
        compared = tuple(_compared(question.shape, runs, longest_row, compare_rounds, within))
    return Swept(rows, grown, limit, compared)


def _alike(question: Question, rows: tuple[Row, ...]) -> dict[int, int]:
    """Peaks of the lengths whose peak is at the same point as the longest one's; if that changes, growth has a kink."""
    moments = {row.tokens: _moment(question, row.work) for row in rows if row.fits}
    last = moments.get(max(moments, default=0))
    return {row.tokens: row.worst.peak for row in rows if moments.get(row.tokens) == last and row.fits}


def _moment(question: Question, work: Work) -> tuple[str, bool]:
    return footprint(question.shape, work).moment, work.chunk is None or work.tokens > work.chunk


def _measured(question: Question, runs: Runs, tokens: int) -> Row:
    work = question.at(tokens)
    row = Row(work, runs.run(work))
    reached = row.worst
    said = f"stopped at {reached.done:.0%}: {reached.over}" if reached.over else "fits"
    predicted = describe_parts(footprint(question.shape, work))
    say(f"{tokens} tokens: peak {format_value(reached.peak, 'B')}, {predicted}; {said}")
    if reached.over is not None:
        held = ", ".join(f"{name} {format_value(size, 'B')}" for name, size in reached.held.items() if size)
        say(f"  held there: {held}")
    return row


def _limit(question: Question, runs: Runs, grown: Growth | None, budget: int) -> Limit:
    most = question.shape.max_positions
    by_arithmetic = longest(question.shape, question.work, budget)
    fitted = grown.longest(budget, most) if grown else None
    target = by_arithmetic if fitted is None else fitted
    by_growth = f", {fitted} by the measured growth" if fitted is not None else ""
    say(
        f"longest that fits: {by_arithmetic} tokens by formula{by_growth}; {MARGIN:.0%} of the free memory kept"
    )
    at = _measured(question, runs, target) if target else None
    further = int(target * BEYOND)
    beyond = _measured(question, runs, further) if target and further <= most else None
    return Limit(by_arithmetic, fitted, at, beyond)


def _compared(shape: ModelShape, runs: Runs, plain: Row, rounds: int, within: Budget) -> Iterator[Comparison]:
    arms = list(_arms(shape, plain.work))
    changed = {name: Row(work, runs.run(work)) for name, _, work, _ in arms}
    seconds: dict[str, list[float]] = {"": [], **{name: [] for name, *_ in arms}}
    took = 0.0
    for number in range(rounds):
        if number and not within.has(took):
            say(f"ran {number} of {rounds} rounds: time limit")
            break
        began = time.monotonic()
        turns = [("", plain.work), *((name, work) for name, _, work, _ in arms if changed[name].fits)]
        for name, work in turns if number % 2 else reversed(turns):
            seconds[name].append(max(one.seconds for one in runs.run(work, followed=False)))
        took = time.monotonic() - began
    for name, flags, _, predicted in arms:
        ratios = tuple(after / before for before, after in zip(seconds[""], seconds[name], strict=False))
        yield Comparison(name, flags, predicted, plain, changed[name], ratios)


def _arms(shape: ModelShape, work: Work) -> Iterator[tuple[str, str, Work, int]]:
    """The remedies that can be compared on these devices: not another batch size or number of devices."""
    for one in remedies(shape, work, sys.maxsize, gpus=work.tensor_parallel):
        if (one.work.batch, one.work.tensor_parallel) == (work.batch, work.tensor_parallel):
            yield one.name, one.flags, one.work, one.saves
    if work.training is None and work.checkpointing == "none":
        # Often recommended for a decode stack; according to the formulas it saves nothing there.
        checkpointed = replace(work, checkpointing="full")
        yield ACTIVATION_CHECKPOINTING, "--activation-checkpointing full", checkpointed, 0
