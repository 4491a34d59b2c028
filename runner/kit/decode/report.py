"""Turns the times of `gpt_large_optimized` into measurements and a verdict. Pure."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from runner.base.sequential import answer
from runner.base.stats import Interval
from runner.base.units import format_value
from runner.hardware.boards import Board
from runner.kit.decode.arms import DecodeArm, SpeedComparison, comparisons_of, intervals
from runner.kit.decode.job import DecodeJob
from runner.kit.interleaved import decided, interval_below
from runner.kit.options import ENVIRONMENT_FLOOR
from runner.kit.probe import measured, say, single
from runner.record.evaluation import STOPPED
from runner.record.model import Measurement
from runner.sizing.limits import bytes_per_step


def decode_measurements(
    arms: Mapping[str, DecodeArm], labels: Mapping[str, Any], job: DecodeJob, board: Board | None
) -> list[Measurement]:
    """The measurements of every arm, and of their comparison if there are two."""
    found: list[Measurement] = []
    # The caller's arm last: the last number is the headline of the step.
    for name, arm in reversed(list(arms.items())):
        found += _of_arm(arm, {**labels, "arm": name}, job, board)
        say(
            f"{name}: first token {format_value(median(arm.first), 's')},"
            f" further tokens {format_value(median(arm.rest), 's')} each,"
            f" {format_value(job.batch / median(arm.rest), 'token/s')}"
        )
    for phase, comparison in comparisons_of(arms).items():
        ratio = measured("clean_ratio", comparison.used, STOPPED, **labels, phase=phase)
        found.append(ratio)
        low, high = comparison.interval.low, comparison.interval.high
        spread = f" [{low:.3f} … {high:.3f}]" if comparison.interval.bounded else ""
        say(
            f"{phase}: speed in this environment is {ratio.value:.3f}{spread} of a clean one"
            f" ({len(comparison.ratios)} starts, {len(comparison.undisturbed)} undisturbed)"
        )
    return found


def _of_arm(arm: DecodeArm, own: dict[str, Any], job: DecodeJob, board: Board | None) -> list[Measurement]:
    first, rest = arm.samples(lambda start: start.first), arm.samples(lambda start: start.rest)
    found = [
        measured("tokens_per_second", [job.batch / seconds for seconds in rest], **own),
        measured("time_per_output_token", rest, **own),
        measured("time_to_first_token", first, **own),
        measured("prefill_tokens_per_second", [job.batch * job.prompt / s for s in first], **own),
        single("threads", arm.threads, **own),
    ]
    for statistic, fewest in (("p95", 20), ("p99", 100)):
        # The nth percentile of fewer samples than 100 ÷ (100 − n) would be their maximum.
        for metric, samples in (("time_per_output_token", arm.rest), ("time_to_first_token", arm.first)):
            if len(samples) >= fewest:
                found.append(measured(f"{metric}_{statistic}", samples, statistic, **own))
    if board is not None:
        # Only the filled part of the cache is read: on average the prompt and half of the new tokens.
        moved = bytes_per_step(job.shape, job.element, job.prompt + job.new_tokens // 2, job.batch)
        peak = board.memory_bandwidth * job.ranks
        found.append(measured("bandwidth_utilisation", [moved / s / peak for s in rest], **own))
    if arm.peak is not None:
        found.append(single("peak_memory", arm.peak, **own))
    if arm.launches is not None:
        for metric, calls in (
            ("graph_replays", arm.launches.replays),
            ("graph_captures", arm.launches.captures),
            ("plain_launches", arm.launches.plain),
        ):
            if calls is not None:
                found.append(single(metric, calls / arm.counted_steps, **own))
    return found


def slow(measurements: Sequence[Measurement]) -> str | None:
    """Why the caller's environment is slower than a clean one (95 % CI below the bound), or None."""
    for found in measurements:
        interval = interval_below(found, ENVIRONMENT_FLOOR) if found.name == "clean_ratio" else None
        if interval is not None:
            return (
                f"{found.labels['phase']}: speed is {found.value:.0%} of that in a clean environment (at most"
                f" {interval.high:.0%}); run python -m runner.probes.stale_env to find the leftovers"
            )
    return None


def undecided(comparisons: Mapping[str, SpeedComparison], bound: float) -> str | None:
    """What the starts do not decide, or None if they decide everything."""
    if decided(intervals(comparisons), bound):
        return None
    open_ = [
        f"{phase}: {_known(found.interval)} ({len(found.undisturbed)} of {len(found.ratios)} starts undisturbed)"
        for phase, found in comparisons.items()
        if answer(found.interval, bound) == "undecided"
    ]
    return f"unknown whether this environment reaches {bound:g} of a clean one: {', '.join(open_)}"


def _known(interval: Interval) -> str:
    return f"{interval.low:.0%} to {interval.high:.0%}" if interval.bounded else "too few"


def graphs_lost(arm: DecodeArm) -> str | None:
    """Why a step compiled for CUDA graphs does not replay them, or None if it does or launches were not counted."""
    if arm.launches is None:
        return None
    replays, captures = arm.launches.replays / arm.counted_steps, arm.launches.captures
    if captures:
        return (
            f"CUDA graphs are captured again in steady state ({captures} times in {arm.counted_steps} steps)"
        )
    if replays < 1:
        plain = arm.launches.plain
        alone = "" if plain is None else f" and {plain / arm.counted_steps:g} single launches"
        return (
            f"CUDA graphs are not replayed: {replays:g} replays{alone} per step; look for 'skipping cudagraphs' with"
            " TORCH_LOGS=cudagraphs, and for leftover variables"
        )
    return None
