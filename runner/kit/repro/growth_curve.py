"""The curves of `compile_growth`: the compiles of growing models, and how their time grows."""

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import InputError, RunbookError
from runner.base.places import running_package
from runner.entry.model import Scalar
from runner.hardware.machine import look_visible as look
from runner.kit.budget import budget
from runner.kit.children import ended_by_sigterm
from runner.kit.compile_guard.command import Watched, last_output, watch_command
from runner.kit.compile_guard.ladder import TOLERANCE
from runner.kit.compile_guard.spec import builder_name
from runner.kit.compile_guard.stacks import in_words
from runner.kit.growth_law import Exponential, Line, exponential, log_log_line
from runner.kit.probe import Findings, require_torch, say, single
from runner.kit.repro import growth_child
from runner.kit.repro.growing_models import ALWAYS, CURVE_SIZES, HEAD_WIDTH, chain, one_sum, wide_stack
from runner.kit.repro.growth_child import SERIES, CompileSeries, finished
from runner.record.model import Measurement

# Each turn of the chain at most triples the work.
_TURN = 3


@dataclass(frozen=True)
class CurvePoint:
    """One compile of a curve.

    Attributes:
        grows: the parameter that grows: `turns` or `width`.
        grown: its value.
        size: operations of the graph, or parameters of the model.
        cpu_s: CPU seconds in the compiler; None if the compile did not finish.
        difference: of its output from eager's, relative to eager's largest magnitude; None if not finite.
        reason: why it did not finish.
        late: whether it reached its deadline.
        memory: whether it ran out of memory.
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
        """Why this compile cannot be used; None if it finished, reached its deadline, or ran out of memory."""
        agrees = self.difference is not None and self.difference <= tolerance
        if self.late or self.memory or (self.reason is None and agrees):
            return None
        return self.reason or f"its output differs from eager's by {self.difference}, tolerance {tolerance:g}"


@dataclass(frozen=True)
class CurveGrowth:
    """How the time of one mode grows along its curve.

    Attributes:
        power: the power law through all sizes that finished: a slope of 0 is constant, 1 is linear in the size.
        exponential: a constant plus an exponential in turns; None with fewer than four sizes.
    """

    power: Line
    exponential: Exponential | None

    def words(self, curve: str) -> str:
        """`× 3.1 per turn above a constant of 2.2 s` where that fits better, else `operations^1.99`."""
        if self.exponential and self.exponential.better:
            return f"× {self.exponential.factor:.1f} per turn above a constant of {self.exponential.constant:.1f} s"
        return f"{curve}^{self.power.slope:.2f}"


def curve_growth(curve: str, points: Sequence[CurvePoint]) -> CurveGrowth | None:
    """Both fits over the sizes of one mode that finished; None with fewer than two of them."""
    ended = [(point.size, point.grown, point.cpu_s) for point in points if point.cpu_s]
    if not ended:
        return None
    sizes, steps, times = zip(*ended, strict=True)
    line = log_log_line(sizes, times)
    if line is None:
        return None
    return CurveGrowth(line, exponential(steps, times) if curve == "operations" else None)


def growth_findings(arguments: argparse.Namespace) -> Findings:
    """Compile each size of a curve in each mode, and fit how the time grows.

    Raises:
        InputError: a size that the model of this curve cannot have.
        RunbookError: a compile failed otherwise than by its deadline or its memory.
    """
    require_torch()
    time_left = budget(arguments.within)
    sizes = tuple(sorted(set(arguments.sizes or CURVE_SIZES[arguments.curve])))
    smallest = 1 if arguments.curve == "operations" else HEAD_WIDTH
    wrong = [size for size in sizes if size < smallest or size % smallest]
    if wrong:
        raise InputError(f"--sizes {wrong[0]}: must be a multiple of {smallest}")
    device = "cuda" if look().gpus else "cpu"
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="compile-growth-") as name:
        folder = Path(name) / "child"
        folder.mkdir()
        series = _series(arguments, sizes, device, time_left.left)
        series.write(folder / SERIES)
        command = [sys.executable, "-m", growth_child.__name__, str(folder), str(os.getpid())]
        root = str(running_package().parent)
        deadline_s = budget(arguments.deadline).left
        seen = watch_command(command, folder, deadline_s, {"PYTHONPATH": root})
        points = _points(arguments.curve, series, seen)
    return _findings(
        arguments.curve, points, sizes, tolerance=TOLERANCE["bfloat16" if device == "cuda" else "float32"]
    )


def _series(
    arguments: argparse.Namespace, sizes: tuple[int, ...], device: str, seconds: float
) -> CompileSeries:
    operations = arguments.curve == "operations"
    steps = [after - before for before, after in itertools.pairwise(sizes)]
    return CompileSeries(
        builder=builder_name(chain if operations else wide_stack),
        first=builder_name(one_sum),
        device=device,
        size="turns" if operations else "width",
        sizes=sizes,
        modes=tuple(arguments.modes),
        seconds=seconds,
        always=ALWAYS,
        factors=(1.0, *(float(_TURN**step) if operations else 1.0 for step in steps)),
    )


def _points(curve: str, series: CompileSeries, seen: Watched) -> list[CurvePoint]:
    """The result of each compile that was started.

    Raises:
        RunbookError: the first, small compile failed.
    """
    first, *done = finished(seen.folder) or [{"error": _unfinished(seen)}]
    if "error" in first:
        raise RunbookError(f"torch.compile fails even for x + 1: {first['error']}")
    asked = [(size, mode) for size in series.sizes for mode in series.modes]
    if (seen.status or not seen.ended) and len(done) < len(asked):
        size, mode = asked[len(done)]
        done.append({"size": size, "mode": mode, "error": _unfinished(seen), "late": not seen.ended})
    return [_point(curve, series.size, one) for one in done]


def _unfinished(seen: Watched) -> str:
    if not seen.ended:
        return f"did not finish by its deadline, {in_words(seen.verdict, seen.where)}"
    return f"the child exited with status {seen.status}; {last_output(seen.folder)}"


def _point(curve: str, grows: str, done: Mapping[str, Any]) -> CurvePoint:
    point = CurvePoint(
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


def _findings(curve: str, points: Sequence[CurvePoint], sizes: Sequence[int], tolerance: float) -> Findings:
    for point in points:
        if (fault := point.fault(tolerance)) is not None:
            raise RunbookError(f"could not measure {point.grown} {point.grows}, {point.mode}: {fault}")
    measurements = [one for point in points if not point.memory for one in _measurements(point)]
    laws: dict[str, CurveGrowth] = {}
    for mode in dict.fromkeys(point.mode for point in points):
        found = curve_growth(curve, [point for point in points if point.mode == mode])
        if found is not None:
            laws[mode] = found
            measurements += _laws(found, curve, mode)
    steep = bool(laws) and all(law.power.slope > 1 for law in laws.values())
    told = ", ".join(f"{mode}: {law.words(curve)}" for mode, law in laws.items())
    begun = {point.grown for point in points}
    left_out = [size for size in sizes if size not in begun]
    if left_out:
        say(f"sizes left out because of the time limit: {', '.join(map(str, left_out))}")
    return Findings(
        measurements=measurements,
        status="symptom" if steep else "ok",
        reason=f"compile time grows faster than linearly, {told}" if steep else None,
        requested={"sizes": list(sizes)},
        effective={"sizes": sorted(begun - {point.grown for point in points if point.cpu_s is None})},
        details={"left_out": left_out, "points": [asdict(point) for point in points]},
    )


def _measurements(point: CurvePoint) -> Iterator[Measurement]:
    labels: dict[str, Scalar] = {"mode": point.mode, point.grows: point.grown}
    yield single("compile_finished", float(point.cpu_s is not None), **labels)
    if point.cpu_s is not None:
        yield single("compiler_cpu_time", point.cpu_s, **labels)
        yield single("graph_size", float(point.size), **labels)


def _laws(found: CurveGrowth, curve: str, mode: str) -> Iterator[Measurement]:
    yield single("growth_exponent", found.power.slope, curve=curve, mode=mode)
    if found.power.r2 is not None:
        yield single("growth_fit_r2", found.power.r2, curve=curve, mode=mode, law="power")
    if found.exponential is not None:
        yield single("growth_fit_r2", found.exponential.r2, curve=curve, mode=mode, law="exponential")
        if found.exponential.better:
            yield single("growth_per_step", found.exponential.factor, curve=curve, mode=mode)
