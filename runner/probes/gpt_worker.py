"""The process in which `gpt_large_optimized` decodes: one arm, in one environment.

Each command is one turn, `{"new_tokens": n}`: a prefill, then n−1 steps. The answer is
`{"first": seconds, "rest": [seconds of each step]}`.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runner.models import model_shape
from runner.probes.ranks import RankLine

if TYPE_CHECKING:
    import torch

    from runner.probes.decoding import Decoder


def main(argv: Sequence[str] | None = None) -> int:
    """Build the model, then serve until the line closes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--prompt-length", type=int, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--compile-mode", default=None)
    arguments = parser.parse_args(argv)
    line = RankLine()
    try:
        _serve(line, arguments)
    except Exception as error:  # noqa: BLE001 - whatever went wrong here must be told to the caller
        line.send({"error": f"{type(error).__name__}: {error}".partition("\n")[0]})
        return 1
    return 0


def _serve(line: RankLine, arguments: argparse.Namespace) -> None:
    import torch

    from runner.probes.decoding import Decoder
    from runner.probes.transformer import build_model

    shape, device = model_shape(arguments.model), torch.device(arguments.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    decoder = Decoder(
        build_model(shape, dtype, device),
        arguments.prompt_length + arguments.new_tokens,
        arguments.compile_mode,
    )
    generator = torch.Generator().manual_seed(0)
    size = (arguments.batch_size, arguments.prompt_length)
    prompt = torch.randint(0, shape.vocab, size, generator=generator).to(device)
    line.send({"threads": torch.get_num_threads(), "dtype": str(dtype), "torch": torch.__version__})
    for command in line.commands():
        line.send(_turn(decoder, prompt, command["new_tokens"]))


def _turn(decoder: "Decoder", prompt: "torch.Tensor", new_tokens: int) -> dict[str, Any]:
    import torch

    cuda = prompt.device.type == "cuda"
    marks = [_now(cuda=cuda)]
    token = decoder.prefill(prompt)
    marks.append(_now(cuda=cuda))
    for _ in range(new_tokens - 1):
        # A server sends every token out, so every step is waited for.
        token = decoder.step(token)
        marks.append(_now(cuda=cuda))
    seconds = [after - before for before, after in pairwise(marks)]
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return {"first": seconds[0], "rest": seconds[1:], "peak": peak}


def _now(*, cuda: bool) -> float:
    import torch

    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
