"""Peak memory predicted against measured: lengths × two models × inference and training, and three budgets.

    python benchmarks/long_context_memory.py

Bytes are counted, not sampled: a second run prints the same numbers, so there is no interval. Ends with exit status 1
where a prediction is off by more than a tenth beyond the smallest length, a KV cache is off by a byte, or a predicted
longest prompt does not hold: it fits its budget, and 1.25 times it does not.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from runner.base.units import format_value
from runner.kit.long_context.bench import MemoryBench, Reached
from runner.sizing.limits import footprint, longest
from runner.sizing.models import ModelShape, model_shape
from runner.sizing.work import ModelWork, kv_cache_bytes

# The second one as the 40B preset is: no grouped heads, two matrices in the MLP.
MODELS = (model_shape("tiny"), ModelShape("ungated", 6, 256, 8, 8, 32, 1024, 8192, 131072, gated_mlp=False))
LENGTHS = (128, 256, 512, 1024, 1536)
KINDS = {
    "inference": ModelWork(1, weight_bytes=4, kv_bytes=4),
    "chunked, last logits": ModelWork(1, weight_bytes=4, kv_bytes=4, chunk=128, all_logits=False),
    "FP8 cache": ModelWork(1, weight_bytes=4, kv_bytes=1),
    "training": ModelWork(1, weight_bytes=4, training="adamw"),
    "training, selective": ModelWork(1, weight_bytes=4, checkpointing="selective", training="adamw"),
    "training, full": ModelWork(1, weight_bytes=4, checkpointing="full", training="adamw"),
}
# Of the room that the longest length takes beyond weights and optimizer state.
SHARES = (0.5, 0.7, 0.9)
MOST_OFF = 0.1


def run(bench: MemoryBench, work: ModelWork) -> Reached:
    """One piece of work on the only rank there is."""
    (reached,) = bench.run(work)
    return reached


def predictions(shape: ModelShape) -> Iterator[bool]:
    """Print a line for every kind and length; whether each held."""
    for kind, base in KINDS.items():
        bench = MemoryBench(shape, base, None, gpu=False)
        for tokens in LENGTHS:
            work = replace(base, tokens=tokens)
            found, reached = footprint(shape, work), run(bench, work)
            ratio, kv = found.total / reached.peak, reached.kv - kv_cache_bytes(shape, work)
            held = kv == 0 and (tokens == LENGTHS[0] or abs(ratio - 1) <= MOST_OFF)
            print(
                f"{shape.name:8} {kind:21} {tokens:6} tokens  predicted {format_value(found.total, 'B'):>9}"
                f"  measured {format_value(reached.peak, 'B'):>9}  ratio {ratio:.4f}  KV off by {kv} B"
                f"{'' if held else '  MISSED'}"
            )
            yield held


def limits(shape: ModelShape) -> Iterator[bool]:
    """Print a line for every kind and budget; whether the predicted longest prompt held."""
    for kind in ("inference", "training"):
        base = KINDS[kind]
        for share in SHARES:
            whole = footprint(shape, replace(base, tokens=LENGTHS[-1]))
            fixed = whole.weights + whole.optimizer
            budget = fixed + int(share * (whole.total - fixed))
            most = longest(shape, base, budget)
            bench = MemoryBench(shape, base, budget, gpu=False)
            at, beyond = (run(bench, replace(base, tokens=n)) for n in (most, int(1.25 * most)))
            held = at.over is None and beyond.over is not None
            print(
                f"{shape.name:8} {kind:10} budget {format_value(budget, 'B'):>9}: {most:5} tokens"
                f" {'fit' if at.over is None else 'do NOT fit'}, {int(1.25 * most):5}"
                f" {'do not' if beyond.over else 'DO as well'}{'' if held else '  MISSED'}"
            )
            yield held


def main() -> int:
    """Print the tables; 1 if anything in them was missed."""
    print(f"torch {torch.__version__}, fp32, on the CPU; peak of all tensors, followed storage by storage")
    held = [one for shape in MODELS for part in (predictions, limits) for one in part(shape)]
    print(f"{sum(held)} of {len(held)} held")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
