"""What makes compile time grow: the number of operations in the graph, or the number of parameters of the model.

Physics: Inductor works on the graph. A value that is used n times may be computed n times where it is used, so in
`x = x * sin(x) + x`, repeated, the expression that a kernel computes triples with each turn, and the compiler's work
with it. A wider layer has the operations of a narrow one: its weights are inputs of the graph, and of an input the
compiler sees shape, strides and type, and no number.

Two curves of real compiles, each in a guarded child. What any first compile pays for (headers, a look at what the CPU
can do) has been paid by another graph's; no graph of the curve is in the cache. `operations`: a chain of such turns,
three operations each, without parameters. `parameters`: a stack of four transformer blocks that gets wider, up to more
than 40e9 parameters; its weights are memory that nobody has written to: address space and, on a CPU, no RAM.

Output: CPU seconds inside the compiler (the model's own forward is left out) at each size, and the exponent p with
which they grow from the smallest to the largest size: time ~ size^p. Symptom: p above 1 in every mode asked for.

    python -m runner.probes.compile_growth --curve operations --sizes 3 5 7
    python -m runner.probes.compile_growth --curve operations --sizes 7 --modes whole per-block
    python -m runner.probes.compile_growth --curve parameters
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import InputError, RunbookError
from runner.evidence.record import Measurement
from runner.hardware.machine import look
from runner.probes.compile_guard import Attempt, Builder, safe_compile
from runner.probes.compile_guard.ladder import TOLERANCE
from runner.probes.contract import Findings, Probe, base_parser, run_probe, say, single
from runner.probes.ranks import ended_by_sigterm
from runner.probes.repro import block_stack, report

# Turns of the chain; widths of the stack. The widest of four blocks has 4 · 14.5 · 26432² = 40.5e9 parameters.
SIZES: Mapping[str, tuple[int, ...]] = {"operations": (3, 5, 7), "parameters": (64, 512, 4096, 26432)}
_BLOCKS, _HEAD_WIDTH = 4, 64
_DEADLINE_S = 600.0
# Below this an allocation comes from memory that was used before and may hold anything.
_FRESH_BYTES = 2**26


def chain(*, turns: int, device: str) -> tuple[Any, tuple[Any, ...]]:
    """A module that repeats `x * sin(x) + x`, each turn a block of its own, and an input for it.

    Args:
        turns: how often; three operations each.
        device: where it runs.
    """
    import torch
    from torch import nn

    class Turn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sin(x) + x

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turns = nn.ModuleList(Turn() for _ in range(turns))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for turn in self.turns:
                x = turn(x)
            return x

    torch.manual_seed(0)
    # Small numbers: sin of large ones turns the last bit of its argument into the first of its result.
    return Chain(), (torch.rand(4096, device=device) / 10,)


def one_sum(*, device: str) -> tuple[Any, tuple[Any, ...]]:
    """A module of one operation, whose compile has the toolchain made ready: headers, and what this CPU can do."""
    import torch
    from torch import nn

    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    return Sum(), (torch.ones(4096, device=device),)


def wide_stack(*, width: int, device: str) -> tuple[Any, tuple[Any, ...]]:
    """Four transformer blocks of this width over untouched memory, and an input of one token.

    Args:
        width: model width; the network of a block is 3.5 times as wide.
        device: `cpu` (float32) or `cuda` (bfloat16).
    """
    import torch

    shape = {"blocks": _BLOCKS, "width": width, "heads": width // _HEAD_WIDTH, "hidden": width * 7 // 2}
    model, _ = block_stack.build(**shape, tokens=1, device="meta")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for weight in model.parameters():
            if device != "cpu" or weight.nbytes < _FRESH_BYTES:
                weight.zero_()
    return model, (torch.randn(1, 1, width, dtype=dtype, device=device),)


@dataclass(frozen=True)
class Point:
    """One compile of a curve: its size in the curve's own unit, and what the guard saw."""

    mode: str
    size: int
    labels: Mapping[str, str | int]
    attempt: Attempt

    @property
    def cpu_s(self) -> float | None:
        """CPU seconds inside the compiler; None where the compile did not end."""
        return self.attempt.facts["compiler_cpu_s"] if self.attempt.outcome == "finished" else None


def exponent(points: Sequence[Point]) -> float | None:
    """The p of time ~ size^p between the smallest and the largest size that ended; None with fewer than two.

    p = ln(t₂ ÷ t₁) ÷ ln(n₂ ÷ n₁): 0 is flat, 1 in proportion, above 1 faster than that.
    """
    ended = sorted((point.size, point.cpu_s) for point in points if point.cpu_s)
    if len(ended) < 2 or ended[0][0] == ended[-1][0]:  # noqa: PLR2004 - a slope needs two points
        return None
    (small, fast), (large, slow) = ended[0], ended[-1]
    return math.log(slow / fast) / math.log(large / small)


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument("--curve", choices=tuple(SIZES), required=True, help="what grows along the curve")
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="turns of the chain, or widths of the stack"
    )
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=("whole", "per-block"),
        default=["whole"],
        help="how to compile (default: whole)",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=_DEADLINE_S,
        metavar="SECONDS",
        help="for each compile (default: 600)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    sizes = tuple(dict.fromkeys(arguments.sizes or SIZES[arguments.curve]))
    smallest = 1 if arguments.curve == "operations" else _HEAD_WIDTH
    wrong = [size for size in sizes if size < smallest or size % smallest]
    if wrong:
        raise InputError(f"--sizes {wrong[0]}: sizes here are multiples of {smallest}")
    device = "cuda" if look().gpus else "cpu"
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="compile-growth-") as name:
        folder = Path(name)
        ready = _toolchain(arguments, device, folder / "toolchain")
        points = [
            _compile(arguments, mode, size, device, folder / f"{mode}-{size}", ready)
            for size in sizes
            for mode in arguments.modes
        ]
    return _findings(arguments.curve, points)


def _toolchain(arguments: argparse.Namespace, device: str, folder: Path) -> Path:
    """A compile cache with no graph of the curve in it and all that every first compile pays for."""
    made = safe_compile(
        one_sum, {"device": device}, mode="whole", deadline_s=arguments.deadline, folder=folder
    )
    if made.compiled is None:
        raise RunbookError(f"not even x + 1 compiles here: {made.reason}")
    return made.compiled.folder / "cache"


def _compile(
    arguments: argparse.Namespace, mode: str, size: int, device: str, folder: Path, ready: Path
) -> Point:
    build: Builder = chain if arguments.curve == "operations" else wide_stack
    grows = {"turns" if arguments.curve == "operations" else "width": size}
    guarded = safe_compile(
        build,
        {**grows, "device": device},
        mode=mode,
        deadline_s=arguments.deadline,
        tolerance=TOLERANCE["bfloat16" if device == "cuda" else "float32"],
        folder=folder,
        start_from=ready,
    )
    (done,) = guarded.attempts
    count = 3 * size if arguments.curve == "operations" else int(done.facts.get("parameters", 0))
    point = Point(mode, count, {"mode": mode, **grows}, done)
    took = f"{point.cpu_s:.1f} CPU seconds in the compiler" if point.cpu_s is not None else done.reason
    say(f"{mode}, {count:.4g} {arguments.curve}: {took}")
    return point


def _findings(curve: str, points: Sequence[Point]) -> Findings:
    other = [point for point in points if point.attempt.outcome not in {"finished", "deadline", "memory"}]
    if other:
        raise RunbookError(f"could not measure {other[0].labels}: {other[0].attempt.reason}")
    measurements: list[Measurement] = []
    exponents: dict[str, float] = {}
    for mode in dict.fromkeys(point.mode for point in points):
        mine = [point for point in points if point.mode == mode]
        for point in mine:
            if point.attempt.outcome != "memory":
                measurements.append(
                    single("compile_finished", float(point.cpu_s is not None), **point.labels)
                )
            if point.cpu_s is not None:
                measurements.append(single("compiler_cpu_time", point.cpu_s, **point.labels))
                measurements.append(single("graph_size", float(point.size), **point.labels))
        if (grows := exponent(mine)) is not None:
            exponents[mode] = grows
            measurements.append(single("growth_exponent", grows, curve=curve, mode=mode))
    steep = bool(exponents) and all(grows > 1 for grows in exponents.values())
    told = ", ".join(f"{mode}: {curve}^{grows:.2f}" for mode, grows in exponents.items())
    return Findings(
        measurements=measurements,
        status="symptom" if steep else "ok",
        reason=f"compile time grows faster than the graph, {told}" if steep else None,
        requested={"sizes": [point.size for point in points]},
        effective={"sizes": [point.size for point in points if point.cpu_s is not None]},
        details={
            "points": [
                {"labels": dict(point.labels), "size": point.size, **report.account(point.attempt)}
                for point in points
            ]
        },
    )


PROBE = Probe("compile_growth", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
