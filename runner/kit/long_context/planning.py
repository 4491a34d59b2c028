"""`--plan`: the answer by formula alone, in milliseconds. No torch, no device."""

from dataclasses import asdict

from runner.base.units import format_value
from runner.kit.long_context.question import Question, describe_parts
from runner.kit.probe import Findings, say, single
from runner.record.model import Measurement
from runner.sizing.limits import GPU_OVERHEAD_BYTES, footprint, largest_batch, longest, quadratic_term
from runner.sizing.remedies import MemoryRemedy, memory_remedies, together
from runner.vocabulary.sources import ASSUMED


def plan(question: Question, budget: int) -> Findings:
    """The memory of every length, whether it fits, and what would make it fit."""
    shape = question.shape
    measurements: list[Measurement] = []
    ranked: dict[int, list[MemoryRemedy]] = {}
    for tokens in question.lengths:
        work = question.at(tokens)
        found, batch = footprint(shape, work), largest_batch(shape, work, budget)
        measurements += [
            single("predicted_memory", found.total, tokens=tokens),
            single("kv_cache", found.kv_cache, tokens=tokens),
            single("largest_batch", batch, tokens=tokens),
        ]
        say(
            f"{tokens} tokens: {describe_parts(found)}; budget {format_value(budget, 'B')};"
            f" largest batch that fits: {batch}"
        )
        if found.total > budget:
            ranked[tokens] = _print_remedies(question, tokens, budget)
    if question.board is not None:
        say(
            f"  {format_value(GPU_OVERHEAD_BYTES, 'B')} of the {question.board.name}'s memory is reserved for the"
            " allocator, CUDA context and communicators (rule of thumb)"
        )
    most = longest(shape, question.work, budget)
    measurements += [
        single("longest_fitting", max(set(question.lengths) - set(ranked), default=0)),
        single("predicted_longest", most, by="arithmetic"),
    ]
    if not ranked:
        highest = max(footprint(shape, question.at(tokens)).total for tokens in question.lengths)
        measurements.append(single("memory_headroom", budget - highest))
    asked = {
        "model": question.model,
        "plan": True,
        "mode": "training" if question.work.training else "inference",
    }
    board = question.board.name if question.board else None
    return Findings(
        measurements=measurements,
        status="symptom" if ranked else "ok",
        reason=_reason(min(ranked), budget, most) if ranked else None,
        requested=asked | {"board": board},
        effective=asked
        | ({} if question.on_host else {"source": ASSUMED})
        | {"board": board, "work": asdict(question.work)},
        details={
            "budget_bytes": budget,
            "parts": {str(n): asdict(footprint(shape, question.at(n))) for n in question.lengths},
            "quadratic_term": quadratic_term(question.work),
            "remedies": {str(n): [_written(one) for one in found] for n, found in ranked.items()},
        },
    )


def _print_remedies(question: Question, tokens: int, budget: int) -> list[MemoryRemedy]:
    """Print and return the ranked changes for one length; if no single one is enough, also the combination."""
    ranked = memory_remedies(question.shape, question.at(tokens), budget, gpus=question.devices)
    for one in ranked:
        then = "fits" if one.fits else "not enough alone"
        saved = format_value(one.saves, "B")
        say(f"  {one.name} ({one.flags}): saves {saved}, {then}; cost: {one.cost}")
    if not any(one.fits for one in ranked):
        every = together(question.shape, question.at(tokens), budget, gpus=question.devices)
        if every is not None:
            then = "fits" if every.fits else "still does not fit"
            say(f"  together: {every.name} ({every.flags}): saves {format_value(every.saves, 'B')}, {then}")
            ranked = [*ranked, every]
    return ranked


def _written(remedy: MemoryRemedy) -> dict[str, object]:
    return {
        "name": remedy.name,
        "flags": remedy.flags,
        "cost": remedy.cost,
        "saves_bytes": remedy.saves,
        "fits": remedy.fits,
    }


def _reason(tokens: int, budget: int, most: int) -> str:
    up_to = f"at most {most} fit" if most else "no length fits"
    return f"{tokens} tokens do not fit into {format_value(budget, 'B')}; {up_to}"
