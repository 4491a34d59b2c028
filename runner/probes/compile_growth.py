"""What makes compile time grow: the number of operations in the graph, or the number of parameters of the model.

Physics: Inductor works on the graph. A value that is used n times may be computed n times where it is used, so in
`x = x * sin(x) + x`, repeated, the expression that a kernel computes triples with each turn, and the compiler's work
with it. A wider layer has the operations of a narrow one: its weights are inputs of the graph, and of an input the
compiler sees shape, strides and type, and no number.

Two curves of real compiles, one after another in a guarded child, each from an empty cache. What any first compile
pays for (headers, a look at what the CPU can do) has been paid by another graph's. `operations`: a chain of such turns,
three operations each, without parameters. `parameters`: a stack of four transformer blocks that gets wider, up to more
than 40e9 parameters; its weights are memory that nobody has written to: address space and, on a CPU, no RAM.

The time that larger sizes take is foreseen from the one before (three times as much for each turn); those that would
end later than --within allows are left out and named.

Output: CPU seconds inside the compiler (the model's own forward is left out) at each size, and the exponent p with
which they grow, by least squares: time ~ size^p. Symptom: p above 1 in every mode asked for.

    python -m runner.probes.compile_growth --curve operations --sizes 3 5 7
    python -m runner.probes.compile_growth --curve operations --sizes 7 --modes whole per-block
    python -m runner.probes.compile_growth --curve parameters
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import runner
from runner.entry.model import Scalar
from runner.errors import InputError, RunbookError
from runner.evidence.last_words import last_words_in
from runner.evidence.record import Measurement
from runner.evidence.redact import host_secrets
from runner.hardware.machine import look
from runner.probes.budget import budget
from runner.probes.compile_guard.command import OUTPUT, Watched, watch_command
from runner.probes.compile_guard.ladder import TOLERANCE
from runner.probes.compile_guard.spec import reference
from runner.probes.compile_guard.stacks import in_words
from runner.probes.contract import Findings, Probe, base_parser, run_probe, say, single
from runner.probes.ranks import ended_by_sigterm
from runner.probes.repro import block_stack, growth_child
from runner.probes.repro.growth_child import SERIES, Series, finished

# Turns of the chain; widths of the stack. The widest of four blocks has 4 · 14.5 · 26432² = 40.5e9 parameters.
SIZES: Mapping[str, tuple[int, ...]] = {"operations": (3, 5, 7), "parameters": (64, 512, 4096, 26432)}
_BLOCKS, _HEAD_WIDTH = 4, 64
_DEADLINE_S, _WITHIN_S = 600.0, 900.0
# A curve needs three points, whatever they take; each turn of the chain makes three times the work at most.
_ALWAYS, _TURN = 3, 3
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
    """One compile of a curve.

    Attributes:
        grows: what grows: `turns` or `width`.
        grown: its value.
        size: operations of the graph, or parameters of the model.
        cpu_s: CPU seconds inside the compiler; None where the compile did not end.
        difference: of its answer from eager's, relative to eager's largest magnitude; None where it is not finite.
        reason: why it did not end.
        late: whether that was its deadline.
        memory: whether that was a want of memory.
    """

    mode: str
    grows: str
    grown: int
    size: int
    cpu_s: float | None
    difference: float | None = 0.0
    reason: str | None = None
    late: bool = False
    memory: bool = False

    def fault(self, tolerance: float) -> str | None:
        """Why this compile tells nothing about growth; None where it ended well, late, or for want of memory."""
        if self.late or self.memory or (self.reason is None and self._agrees(tolerance)):
            return None
        return (
            self.reason or f"its answer differs from eager's by {self.difference}, allowed is {tolerance:g}"
        )

    def _agrees(self, tolerance: float) -> bool:
        return self.difference is not None and self.difference <= tolerance


def exponent(points: Sequence[Point]) -> float | None:
    """The p of time ~ size^p over the sizes that ended; None with fewer than two of them.

    By least squares of ln t over ln n: 0 is flat, 1 in proportion, above 1 faster than that.
    """
    ended = [(math.log(point.size), math.log(point.cpu_s)) for point in points if point.cpu_s]
    if len({size for size, _ in ended}) < 2:  # noqa: PLR2004 - a slope needs two points
        return None
    return statistics.linear_regression(*zip(*ended, strict=True)).slope


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
        "--within",
        type=float,
        default=_WITHIN_S,
        metavar="SECONDS",
        help=f"leave out larger sizes that would end later; the {_ALWAYS} smallest are compiled in any case"
        f" (default: {_WITHIN_S:g}, or the time that the step has)",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=_DEADLINE_S,
        metavar="SECONDS",
        help=f"for each compile (default: {_DEADLINE_S:g}, or the time that the step has)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    time_left = budget(arguments.within)
    sizes = tuple(sorted(set(arguments.sizes or SIZES[arguments.curve])))
    smallest = 1 if arguments.curve == "operations" else _HEAD_WIDTH
    wrong = [size for size in sizes if size < smallest or size % smallest]
    if wrong:
        raise InputError(f"--sizes {wrong[0]}: sizes here are multiples of {smallest}")
    device = "cuda" if look().gpus else "cpu"
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="compile-growth-") as name:
        folder = Path(name) / "child"
        folder.mkdir()
        series = _series(arguments, sizes, device, time_left.left)
        root = str(Path(runner.__file__).resolve().parents[1])
        deadline_s = budget(arguments.deadline).left
        seen = watch_command(_command(series, folder), folder, deadline_s, {"PYTHONPATH": root})
        points = _points(arguments.curve, series, seen)
    return _findings(
        arguments.curve, points, sizes, tolerance=TOLERANCE["bfloat16" if device == "cuda" else "float32"]
    )


def _series(arguments: argparse.Namespace, sizes: tuple[int, ...], device: str, seconds: float) -> Series:
    operations = arguments.curve == "operations"
    steps = [after - before for before, after in itertools.pairwise(sizes)]
    return Series(
        builder=reference(chain if operations else wide_stack),
        first=reference(one_sum),
        device=device,
        size="turns" if operations else "width",
        sizes=sizes,
        modes=tuple(arguments.modes),
        seconds=seconds,
        always=_ALWAYS,
        factors=(1.0, *(float(_TURN**step) if operations else 1.0 for step in steps)),
    )


def _command(series: Series, folder: Path) -> list[str]:
    """What compiles the series, which is written into the folder for it."""
    series.write(folder / SERIES)
    return [sys.executable, "-m", growth_child.__name__, str(folder), str(os.getpid())]


def _points(curve: str, series: Series, seen: Watched) -> list[Point]:
    """What became of each compile that was begun.

    Raises:
        RunbookError: not even the first, small one worked.
    """
    first, *done = finished(seen.folder) or [{"error": _unfinished(seen)}]
    if "error" in first:
        raise RunbookError(f"not even x + 1 compiles here: {first['error']}")
    asked = [(size, mode) for size in series.sizes for mode in series.modes]
    if (seen.status or not seen.ended) and len(done) < len(asked):
        size, mode = asked[len(done)]
        done.append({"size": size, "mode": mode, "error": _unfinished(seen), "late": not seen.ended})
    return [_point(curve, series.size, one) for one in done]


def _unfinished(seen: Watched) -> str:
    if not seen.ended:
        return f"did not end by its deadline, {in_words(seen.verdict)}{f' (in {seen.where})' if seen.where else ''}"
    words = last_words_in(seen.folder / OUTPUT, host_secrets())
    return f"the child ended with status {seen.status}; {f'its last words: {words}' if words else 'it printed nothing'}"


def _point(curve: str, grows: str, done: Mapping[str, Any]) -> Point:
    point = Point(
        mode=done["mode"],
        grows=grows,
        grown=done["size"],
        size=3 * done["size"] if curve == "operations" else done.get("parameters", 0),
        cpu_s=done.get("compiler_cpu_s"),
        difference=done.get("difference"),
        reason=done.get("error"),
        late=done.get("late", False),
        memory=done.get("memory", False),
    )
    took = f"{point.cpu_s:.1f} CPU seconds in the compiler" if point.cpu_s is not None else point.reason
    say(f"{point.mode}, {point.grown} {grows}: {took}")
    return point


def _findings(curve: str, points: Sequence[Point], sizes: Sequence[int], tolerance: float) -> Findings:
    for point in points:
        if (fault := point.fault(tolerance)) is not None:
            raise RunbookError(f"could not measure {point.grown} {point.grows}, {point.mode}: {fault}")
    measurements = [one for point in points if not point.memory for one in _measurements(point)]
    exponents: dict[str, float] = {}
    for mode in dict.fromkeys(point.mode for point in points):
        grows = exponent([point for point in points if point.mode == mode])
        if grows is not None:
            exponents[mode] = grows
            measurements.append(single("growth_exponent", grows, curve=curve, mode=mode))
    steep = bool(exponents) and all(grows > 1 for grows in exponents.values())
    told = ", ".join(f"{mode}: {curve}^{grows:.2f}" for mode, grows in exponents.items())
    begun = {point.grown for point in points}
    left_out = [size for size in sizes if size not in begun]
    if left_out:
        say(f"left out, as they would end too late: {', '.join(map(str, left_out))}")
    return Findings(
        measurements=measurements,
        status="symptom" if steep else "ok",
        reason=f"compile time grows faster than the graph, {told}" if steep else None,
        requested={"sizes": list(sizes)},
        effective={"sizes": sorted(begun - {point.grown for point in points if point.cpu_s is None})},
        details={"left_out": left_out, "points": [asdict(point) for point in points]},
    )


def _measurements(point: Point) -> Iterator[Measurement]:
    labels: dict[str, Scalar] = {"mode": point.mode, point.grows: point.grown}
    yield single("compile_finished", float(point.cpu_s is not None), **labels)
    if point.cpu_s is not None:
        yield single("compiler_cpu_time", point.cpu_s, **labels)
        yield single("graph_size", float(point.size), **labels)


PROBE = Probe("compile_growth", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
