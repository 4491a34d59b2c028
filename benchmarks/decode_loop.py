"""The decode loop beside transformers' own `generate` with a static cache: the same model, prompt and tokens.

    python benchmarks/decode_loop.py [PAIRS]

Both decode greedily in one process, in interleaved turns, and their tokens are compared first. On a GPU the loop's step
is compiled with CUDA graphs and `generate` compiles its own forward, as it does for a static cache; on a CPU both are
eager.
The ratio is transformers' time ÷ the loop's time, pair by pair: above 1 the loop is ahead. Pairs in which other work
took a core away are left out.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from runner.base.stats import median_interval, spread
from runner.kit.compile_options import Mode
from runner.kit.decode.loop import Decoder
from runner.kit.decode.run_queue import MOST_WAITED, share, waited
from runner.kit.transformer import build_model
from runner.sizing.models import model_shape

PAIRS, FEWEST_PAIRS = 60, 20
PROMPT, NEW_TOKENS = 64, 64


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, bool]:
    """Wall seconds of one turn, and whether it was left in peace."""
    queued, began = waited(), time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return seconds, (share(queued, waited(), seconds) or 0.0) <= MOST_WAITED


def main() -> None:
    """Print both sides, their ratio and its 95 % interval."""
    pairs = max(FEWEST_PAIRS, int(sys.argv[1])) if len(sys.argv) > 1 else PAIRS
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    shape = model_shape("8b" if cuda else "tiny")
    model: Any = build_model(shape, dtype, device, initializer_range=0.02 if cuda else 0.3)
    prompt = torch.randint(0, shape.vocab, (1, PROMPT), generator=torch.Generator().manual_seed(0)).to(device)
    decoder = Decoder(model, PROMPT + NEW_TOKENS, Mode.WHOLE if cuda else Mode.EAGER)

    def ours() -> torch.Tensor:
        return decoder.generate(prompt, NEW_TOKENS)

    def theirs() -> torch.Tensor:
        tokens: torch.Tensor = model.generate(
            prompt,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            cache_implementation="static",
            disable_compile=not cuda,
        )
        return tokens[:, PROMPT:]

    same = sum(int(a == b) for a, b in zip(ours()[0], theirs()[0], strict=True))
    for work in (ours, theirs):
        work()
    sides: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        # ABBA: neither side always goes first.
        order = (ours, theirs) if pair % 2 else (theirs, ours)
        taken = {work: timed(work) for work in order}
        if all(calm for _, calm in taken.values()):
            sides[0].append(taken[ours][0])
            sides[1].append(taken[theirs][0])
    ratios = [other / one for one, other in zip(*sides, strict=True)]
    interval = median_interval(ratios)
    if interval is None or len(ratios) < FEWEST_PAIRS:
        sys.exit(
            f"inconclusive: other work disturbed all but {len(ratios)} of {pairs} pairs; run it on an idle machine"
        )
    print(f"{shape.name} on {device}, {PROMPT} + {NEW_TOKENS} tokens: {same} of {NEW_TOKENS} tokens equal")
    print(f"{len(ratios)} of {pairs} pairs undisturbed")
    for name, side in zip(("decode loop", "transformers generate, static cache"), sides, strict=True):
        print(f"{name}: median {spread(side).median:.3f} s, {NEW_TOKENS / spread(side).median:.1f} tokens/s")
    print(
        f"ratio {spread(ratios).median:.3f} [{interval.low:.3f} … {interval.high:.3f}] (95 %), wanted ≥ 0.95"
    )


if __name__ == "__main__":
    main()
