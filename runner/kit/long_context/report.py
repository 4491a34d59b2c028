"""Converts the results of a sweep into the probe's findings. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import median

from runner.base.units import format_value
from runner.entry.model import Scalar
from runner.kit.long_context.question import Question
from runner.kit.long_context.sweep import (
    BEYOND,
    LengthRow,
    Limit,
    RemedyComparison,
    SweptLengths,
    reserve_share,
)
from runner.kit.probe import Findings, measured, say, single
from runner.record.model import Measurement
from runner.sizing.limits import footprint, quadratic_term
from runner.sizing.work import kv_cache_bytes


def sweep_findings(
    question: Question, swept: SweptLengths, asked: dict[str, object], allocator: Mapping[str, object]
) -> Findings:
    """The findings of a sweep.

    Args:
        question: the question.
        swept: the results.
        asked: the flags as given.
        allocator: the settings that a GPU's allocator ran with; empty on a CPU host.
    """
    rows, limit = swept.rows, swept.limit
    over = [row for row in rows if not row.fits]
    measurements = [one for row in rows for one in _of_row(question, row)]
    measurements.append(single("longest_fitting", max((row.tokens for row in rows if row.fits), default=0)))
    if over:
        measurements.append(single("smallest_prompt_done", min(row.worst.done for row in over)))
    elif question.budget is not None:
        measurements.append(single("memory_headroom", question.budget - max(row.worst.peak for row in rows)))
    if swept.growth is not None:
        measurements.append(single("quadratic_share", swept.growth.quadratic_share))
        say(_describe_growth(question, swept))
    if limit is not None:
        measurements += _of_limit(limit)
    measurements += [one for compared in swept.comparisons for one in _of_comparison(compared)]
    wrong = _limit_fault(limit)
    work = question.work
    return Findings(
        measurements=measurements,
        status="symptom" if over or wrong else "ok",
        reason=_ran_out(over[0]) if over else wrong,
        requested=asked,
        effective={"model": question.model, "work": asdict(work), "ranks": question.ranks},
        details={
            "budget_bytes": question.budget,
            "parts": {str(n): asdict(footprint(question.shape, question.at(n))) for n in question.lengths},
            "held_bytes": {str(row.tokens): dict(row.worst.held) for row in over},
            "growth": asdict(swept.growth) if swept.growth else None,
            "quadratic_term": _named_term(question, swept),
            "remedy": question.remedy.flags if question.remedy else None,
            **(_of_allocator(question, rows, allocator) if allocator else {}),
        },
    )


def _of_allocator(
    question: Question, rows: tuple[LengthRow, ...], allocator: Mapping[str, object]
) -> dict[str, object]:
    return {
        "allocator": dict(allocator),
        "allocator_reserve_bytes": {str(row.tokens): row.worst.reserve for row in rows},
        "allocator_reserve_share": reserve_share(question, rows),
    }


def _of_row(question: Question, row: LengthRow) -> Iterator[Measurement]:
    tokens, reached = row.tokens, row.worst
    predicted = footprint(question.shape, row.work).total
    yield single("predicted_memory", predicted, tokens=tokens)
    yield single("peak_memory", reached.peak, tokens=tokens)
    yield single("prompt_done", reached.done, tokens=tokens)
    for rank, one in enumerate(row.ranks):
        if len(row.ranks) > 1:
            yield single("rank_peak_memory", one.peak, tokens=tokens, rank=rank)
    if reached.reserved is not None and reached.free is not None:
        yield single("reserved_memory", reached.reserved, tokens=tokens)
        yield single("device_free", reached.free, tokens=tokens)
    if not row.fits:
        for part, size in reached.held.items():
            yield single("held_memory", size, tokens=tokens, part=part)
        return
    yield single("prediction_ratio", predicted / reached.peak, tokens=tokens)
    if question.work.training is None:
        yield single("kv_cache", reached.kv, tokens=tokens)
        difference = reached.kv - kv_cache_bytes(question.shape, row.work)
        yield single("kv_cache_difference", difference, tokens=tokens)
    if row.seconds is not None:
        name = "prefill_time" if question.work.training is None else "step_time"
        yield measured(name, [row.seconds], tokens=tokens)


def _of_limit(limit: Limit) -> Iterator[Measurement]:
    yield single("predicted_longest", limit.arithmetic, by="arithmetic")
    if limit.fitted is not None:
        yield single("predicted_longest", limit.fitted, by="growth")
    for place, row in (("at", limit.at), ("beyond", limit.beyond)):
        if row is not None:
            yield single("limit_fits", int(row.fits), run=place)


def _of_comparison(compared: RemedyComparison) -> Iterator[Measurement]:
    labels: dict[str, Scalar] = {"remedy": compared.name, "tokens": compared.plain.tokens}
    if not compared.changed.fits:
        return
    plain, changed = compared.plain.worst.peak, compared.changed.worst.peak
    yield single("remedy_saving", plain - changed, **labels)
    yield single("remedy_memory_ratio", changed / plain, **labels)
    slower = ""
    if compared.time_ratios:
        yield measured("remedy_time_ratio", compared.time_ratios, **labels)
        slower = f"; time × {median(compared.time_ratios):.3g}"
    say(
        f"{compared.name} ({compared.flags}) at {compared.plain.tokens} tokens: saves"
        f" {format_value(plain - changed, 'B')} ({format_value(compared.predicted, 'B')} predicted){slower}"
    )


def _limit_fault(limit: Limit | None) -> str | None:
    if limit is None or limit.at is None:
        return None if limit is None else "no prompt is predicted to fit the budget"
    if not limit.at.fits:
        return f"the longest prompt predicted to fit, {limit.at.tokens} tokens, does not fit"
    if limit.beyond is not None and limit.beyond.fits:
        return f"{limit.beyond.tokens} tokens fit, {BEYOND:g} times the longest prompt predicted: prediction too low"
    return None


def _named_term(question: Question, swept: SweptLengths) -> str | None:
    """The name of the quadratic term; if the formulas have none but the fit does, a note about that."""
    named = quadratic_term(question.work)
    if named is None and swept.growth is not None and swept.growth.is_quadratic:
        return "a term missing in the formulas, or a change of the point that has the peak"
    return named


def _describe_growth(question: Question, swept: SweptLengths) -> str:
    assert swept.growth is not None
    grown = swept.growth
    named = _named_term(question, swept)
    square = (
        f"{grown.quadratic_share:.1%} of the growth is quadratic in the length"
        if named
        else "no quadratic term"
    )
    return (
        f"growth: {format_value(grown.constant, 'B')} + {format_value(grown.linear, 'B')} per token; {square}"
        + (f": {named}" if named else "")
    )


def _ran_out(row: LengthRow) -> str:
    held = max(row.worst.held.items(), key=lambda one: one[1], default=None)
    most = f"; {held[0]} held {format_value(held[1], 'B')} of it" if held else ""
    return (
        f"{row.tokens} tokens ran out of memory at {row.worst.done:.0%} of the work: {row.worst.over}{most}"
    )
