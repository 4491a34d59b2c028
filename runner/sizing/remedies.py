"""Changes that lower the peak of a prefill or a training step, each with the bytes it saves. No torch, no device."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runner.sizing.limits import footprint
from runner.sizing.models import ModelShape
from runner.sizing.work import ModelWork

# GPUs of one node: tensor parallelism does not pay beyond it.
NODE_GPUS = 8
# A chunk is an eighth of the prompt, within these bounds, so that it saves enough.
_SHORTEST_CHUNK, _LONGEST_CHUNK = 64, 2048


@dataclass(frozen=True)
class MemoryRemedy:
    """One change, or several together.

    Attributes:
        name: for a reader.
        flags: the flags of `long_context_validation` that make the change.
        cost: its cost other than memory, in words.
        work: the changed work.
        saves: bytes saved at the peak.
        fits: whether the peak is then within the budget.
    """

    name: str
    flags: str
    cost: str
    work: ModelWork
    saves: int
    fits: bool


@dataclass(frozen=True)
class _Change:
    """One change to a Work: fields to replace, and the flags that replace them."""

    name: str
    cost: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)


def memory_remedies(
    shape: ModelShape, work: ModelWork, budget: int, *, gpus: int = NODE_GPUS
) -> list[MemoryRemedy]:
    """Every change that saves memory: first those that make it fit, cheapest first; then by saving, largest first.

    Args:
        shape: of the model.
        work: the work before the change.
        budget: bytes on each GPU.
        gpus: maximum number of GPUs.
    """
    found = [_applied(shape, work, budget, (change,)) for change in _changes(shape, work, gpus)]
    saving = [one for one in found if one.saves > 0]
    # Python's sort is stable, so changes keep their order of cost.
    return sorted(saving, key=lambda one: (0, 0) if one.fits else (1, -one.saves))


def together(
    shape: ModelShape, work: ModelWork, budget: int, *, gpus: int = NODE_GPUS
) -> MemoryRemedy | None:
    """The fewest changes, cheapest first, that make it fit, or all changes; None if there is none."""
    chosen: list[_Change] = []
    now = work
    for change in _changes(shape, work, gpus):
        after = replace(now, **change.fields)
        if footprint(shape, after).total >= footprint(shape, now).total:
            continue
        # A stronger form of the same change replaces the weaker one.
        chosen = [one for one in chosen if not set(one.flags) <= set(change.flags)] + [change]
        now = after
        if footprint(shape, now).total <= budget:
            break
    return _applied(shape, work, budget, tuple(chosen)) if chosen else None


def first_remedy(
    shape: ModelShape, work: ModelWork, budget: int, *, gpus: int = NODE_GPUS
) -> MemoryRemedy | None:
    """The cheapest single change that makes it fit, else the fewest together; None if even all are not enough."""
    candidates = (
        *memory_remedies(shape, work, budget, gpus=gpus)[:1],
        together(shape, work, budget, gpus=gpus),
    )
    return next((one for one in candidates if one is not None and one.fits), None)


def _applied(shape: ModelShape, work: ModelWork, budget: int, changes: tuple[_Change, ...]) -> MemoryRemedy:
    after = work
    flags: dict[str, str] = {}
    for change in changes:
        after = replace(after, **change.fields)
        flags |= change.flags
    total = footprint(shape, after).total
    return MemoryRemedy(
        name=", ".join(change.name for change in changes),
        flags=" ".join(f"{flag} {value}" for flag, value in flags.items()),
        cost="; ".join(dict.fromkeys(change.cost for change in changes)),
        work=after,
        saves=footprint(shape, work).total - total,
        fits=total <= budget,
    )


def _changes(shape: ModelShape, work: ModelWork, most_gpus: int) -> Iterator[_Change]:
    """The possible changes, in order of cost."""
    if work.attention == "eager":
        yield _Change("SDPA attention", "nothing", {"attention": "sdpa"}, {"--attention": "sdpa"})
    yield from _inference(work) if work.training is None else _training(work)
    if work.batch > 1:
        half = work.batch // 2
        yield _Change("half the batch", "throughput", {"batch": half}, {"--batch-size": str(half)})
    gpus = 2 * work.tensor_parallel
    if gpus <= most_gpus and shape.heads % gpus == 0:
        flags = {"--tensor-parallel-gpus": str(gpus)}
        yield _Change("twice the tensor parallelism", "as many GPUs again", {"tensor_parallel": gpus}, flags)


def _inference(work: ModelWork) -> Iterator[_Change]:
    last = {"--logits": "last"}
    if work.all_logits:
        yield _Change("last-token logits", "no logits of the prompt", {"all_logits": False}, last)
    chunk = _chunk(work.tokens)
    if work.chunk is None and chunk < work.tokens:
        yield _Change(
            f"chunks of {chunk}" + (" and last-token logits" if work.all_logits else ""),
            "time (more and smaller kernels)" + ("; no logits of the prompt" if work.all_logits else ""),
            {"chunk": chunk, "all_logits": False},
            {"--chunk": str(chunk), **(last if work.all_logits else {})},
        )
    if work.kv_bytes > 1:
        yield _Change("FP8 KV cache", "accuracy", {"kv_bytes": 1}, {"--kv-dtype": "fp8"})


def _training(work: ModelWork) -> Iterator[_Change]:
    modes = {
        "selective": "time (norms, rotation and activations are recomputed)",
        "full": "time (the forward pass is recomputed)",
    }
    stronger = {"none": ("selective", "full"), "selective": ("full",), "full": ()}
    for mode in stronger[work.checkpointing]:
        flags = {"--activation-checkpointing": mode}
        yield _Change(f"{mode} activation checkpointing", modes[mode], {"checkpointing": mode}, flags)


def _chunk(tokens: int) -> int:
    """The largest power of two up to an eighth of the prompt, within bounds."""
    eighth = max(1, tokens // 8)
    return min(_LONGEST_CHUNK, max(_SHORTEST_CHUNK, 1 << (eighth.bit_length() - 1)))
