"""The work of `power_efficiency_analyzer`: the change of each mode between two sweeps, its verdict and causes."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from runner.base.errors import InputError
from runner.base.significance import FALSE_REPORTS, RunChange, run_changes
from runner.base.stats import spread
from runner.base.units import format_value
from runner.kit.precision.sweeps import (
    SWEEP,
    Sweep,
    baseline_and_latest,
    explanations,
    newest_two,
    other_work,
    read_sweep,
)
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.record.model import Measurement

ENERGY, SPEED = "tokens_per_joule", "speed_ratio"
_WORDS = {ENERGY: "tokens per joule", SPEED: "speed over bf16"}
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class _Compared:
    """One mode: samples of `metric` before and after, the change, the verdict, and possible causes.

    `unjudged` is the reason of the verdict `not judged`, else None.
    """

    mode: str
    metric: str
    before: Sequence[float]
    after: Sequence[float]
    change: RunChange
    verdict: str
    because: Sequence[str]
    unjudged: str | None = None

    @property
    def said(self) -> str:
        unit = "token/J" if self.metric == ENERGY else "1"
        spreads = []
        for samples in (self.before, self.after):
            found = spread(samples)
            low, high = (format_value(one, unit) for one in (found.low, found.high))
            spreads.append(f"{format_value(found.median, unit)} ({low} to {high}, {found.count} windows)")
        return (
            f"{self.mode}: {_WORDS[self.metric]} {' → '.join(spreads)}, × {self.change.ratio:.3f}:"
            f" {self.verdict} (p = {self.change.probability:.3f})"
        )


def compare_sweeps(arguments: argparse.Namespace) -> Findings:
    """Compare the two sweeps that the arguments name, mode by mode.

    Raises:
        InputError: an invalid tolerance, a file that is not a sweep, or sweeps that cannot be compared.
        NotApplicableError: no mode was timed in both sweeps.
    """
    if not 0 <= arguments.tolerance < 1:
        raise InputError("--tolerance must be at least 0 and below 1")
    before, after = _chosen(arguments)
    if before.label("model") != after.label("model"):
        raise InputError(
            f"{before.name} and {after.name} ran different models: {before.label('model')} and {after.label('model')}"
        )
    compared = _compare(before, after, arguments.tolerance)
    for one in compared:
        say(one.said)
        if one.verdict in {"regression", "improvement"}:
            say(f"  {_because(one)}")
    untimed = _untimed(before, after)
    if untimed:
        say(f"not compared: {untimed}")
    worse = [one for one in compared if one.verdict == "regression"]
    return Findings(
        measurements=_report(compared),
        status="symptom" if worse else "ok",
        reason="; ".join(
            f"{one.mode} lost {1 - one.change.ratio:.0%} of its {_WORDS[one.metric]}: {_because(one)}"
            for one in worse
        )
        or _not_judged(compared),
        requested={"tolerance": arguments.tolerance},
        effective={"tolerance": arguments.tolerance, "compared": compared[0].metric},
        details={
            "before": before.name,
            "after": after.name,
            "verdicts": {one.mode: one.verdict for one in compared},
            "explanations": {one.mode: list(one.because) for one in compared},
            "not_compared": untimed,
            "test": f"Welch's t, maxT over {len(compared)} modes by permutation, {FALSE_REPORTS:.0%} false reports",
            "windows": {one.mode: [len(one.before), len(one.after)] for one in compared},
        },
    )


def _not_judged(compared: Sequence[_Compared]) -> str | None:
    by_reason: dict[str, list[str]] = {}
    for one in compared:
        if one.unjudged is not None:
            by_reason.setdefault(one.unjudged, []).append(one.mode)
    said = [f"{', '.join(modes)} not judged: {why}" for why, modes in by_reason.items()]
    return "; ".join(said) or None


def _because(one: _Compared) -> str:
    return f"other differences: {', '.join(one.because)}" if one.because else "no other recorded difference"


def _report(compared: Sequence[_Compared]) -> list[Measurement]:
    return [
        single(name, value, mode=one.mode, of=one.metric)
        for one in compared
        for name, value in (
            ("efficiency_change", one.change.ratio),
            ("chance_probability", one.change.probability),
        )
    ]


def _chosen(arguments: argparse.Namespace) -> tuple[Sweep, Sweep]:
    if arguments.data is not None:
        if arguments.sweeps:
            raise InputError("use two files or --data, not both")
        return baseline_and_latest(arguments.data)
    paths = arguments.sweeps or newest_two(arguments.folder)
    if len(paths) != 2:  # noqa: PLR2004 - a comparison has two sides
        raise InputError(f"expected two sweeps, before and after, got {len(paths)}")
    return read_sweep(paths[0]), read_sweep(paths[1])


def _compare(before: Sweep, after: Sweep, tolerance: float) -> list[_Compared]:
    for metric in (ENERGY, SPEED):
        old, new = before.series(metric), after.series(metric)
        both = [mode for mode in old if mode in new]
        if both:
            break
    else:
        if before.untimed | after.untimed:
            raise NotApplicableError(f"no mode was timed in both sweeps: {_untimed(before, after)}")
        raise InputError(
            f"{before.name} and {after.name} have no mode in common that can be compared; sweep the same --modes"
            f" with {SWEEP}, bf16 among them"
        )
    try:
        found = run_changes({mode: old[mode] for mode in both}, {mode: new[mode] for mode in both})
    except ValueError as error:
        raise InputError(f"{before.name}, {after.name}: {error}; sweep again") from error
    compared = []
    for mode, change in found.items():
        unjudged = _why_unjudged(before, after, mode, metric)
        verdict = NOT_JUDGED if unjudged else _verdict(change, tolerance)
        because = explanations(before, after, mode)
        compared.append(_Compared(mode, metric, old[mode], new[mode], change, verdict, because, unjudged))
    return compared


def _why_unjudged(before: Sweep, after: Sweep, mode: str, metric: str) -> str | None:
    # A sweep is one process, and its windows do not show how much two processes on a CPU differ: 19 % was measured
    # between two sweeps of the same host.
    if metric == SPEED and (before.on_cpu or after.on_cpu):
        return "no verdict on speeds of a CPU: two processes with the same work may differ as much"
    return other_work(before, after, mode)


def _untimed(before: Sweep, after: Sweep) -> str | None:
    """Modes that cannot be compared because a CPU computed them in fp32; None if there are none."""
    modes = ", ".join(sorted(before.untimed | after.untimed))
    return f"{modes} multiplied FP8 values in fp32, whose speed is not that of FP8" if modes else None


def _verdict(change: RunChange, tolerance: float) -> str:
    if not change.clear or abs(change.ratio - 1) <= tolerance:
        return "inconclusive"
    return "regression" if change.ratio < 1 else "improvement"
