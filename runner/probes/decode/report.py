"""What the turns of `gpt_large_optimized` amount to. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, median_low
from typing import Any

from runner.evidence.record import Measurement
from runner.hardware.boards import Board
from runner.probes.contract import measured, say, single
from runner.probes.decode.job import Job
from runner.probes.decode.launches import Launches
from runner.probes.decode.run_queue import MOST_WAITED
from runner.sizing.decode import bytes_per_step
from runner.stats import median_interval
from runner.units import format_value

# Below this share of the clean environment's speed the caller's environment is called the fault.
RATIO_FLOOR = 0.9
FEWEST_UNDISTURBED = 8


@dataclass
class Arm:
    """What one environment's turns took, in seconds; of several ranks, the slowest one's.

    Attributes:
        first: prefills.
        rest: decoding steps, all turns in a row.
        steps: the median step of each turn.
        peak: bytes of the fullest rank.
        launches: what the steps counted launched, of the rank with the fewest replays.
        counted_steps: how many those were.
        threads: CPU threads of a rank.
        waited: for each turn, the share of its prefill and of its steps that threads waited for a core.
    """

    first: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    peak: int | None = None
    launches: Launches | None = None
    counted_steps: int = 0
    threads: int = 0
    waited: list[tuple[float, float]] = field(default_factory=list)

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Take in one turn, as each rank answered it."""
        self.first.append(max(answer["first"] for answer in answers))
        rest = [max(step) for step in zip(*(answer["rest"] for answer in answers), strict=True)]
        self.rest += rest
        self.steps.append(median(rest))
        prefill, steps = zip(*(answer["waited"] for answer in answers), strict=True)
        self.waited.append((max(s or 0.0 for s in prefill), max(s or 0.0 for s in steps)))


def report(
    arms: Mapping[str, Arm], labels: Mapping[str, Any], job: Job, board: Board | None
) -> list[Measurement]:
    """The measurements of every arm, and of their comparison where there are two."""
    found: list[Measurement] = []
    # The caller's arm last: it is the one that speaks for the step.
    for name, arm in reversed(list(arms.items())):
        found += _of_arm(arm, {**labels, "arm": name}, job, board)
        say(
            f"{name}: first token {format_value(median(arm.first), 's')},"
            f" each further one {format_value(median(arm.rest), 's')},"
            f" {format_value(job.batch / median(arm.rest), 'token/s')}"
        )
    if "clean" in arms:
        for phase, pairs in pairs_of(arms["caller"], arms["clean"]).items():
            found.append(measured("clean_ratio", pairs.used, **labels, phase=phase))
            interval = median_interval(pairs.used)
            spread = f" [{interval.low:.3f} … {interval.high:.3f}]" if interval else ""
            say(
                f"{phase}: this environment reaches {median(pairs.used):.3f}{spread} of a clean one"
                f" ({len(pairs.ratios)} pairs, {len(pairs.undisturbed)} undisturbed)"
            )
    return found


@dataclass(frozen=True)
class Pairs:
    """Speed in the caller's environment over speed in a clean one, turn by turn.

    Attributes:
        ratios: of every pair of turns.
        undisturbed: of those in which neither side waited for a core.
        extremes: the clean side's fastest turn over the caller's slowest, and its slowest over the caller's fastest.
    """

    ratios: Sequence[float]
    undisturbed: Sequence[float]
    extremes: tuple[float, float]

    @property
    def used(self) -> Sequence[float]:
        """The undisturbed pairs; where too few were left in peace, the middle one of all between the extremes.

        The range of all turns is then the spread, so that a busy machine says "inconclusive": what disturbs turns need
        not disturb both sides alike, and many disturbed pairs would only look sure.
        """
        if len(self.undisturbed) >= FEWEST_UNDISTURBED:
            return self.undisturbed
        return (self.extremes[0], median_low(self.ratios), self.extremes[1])


def pairs_of(caller: Arm, clean: Arm) -> dict[str, Pairs]:
    """The pairs of `prefill` and of `decode`."""
    found = {}
    for number, phase in enumerate(("prefill", "decode")):
        ours, theirs = (arm.first if phase == "prefill" else arm.steps for arm in (clean, caller))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        waits = zip(clean.waited, caller.waited, strict=True)
        # Where the kernel does not count, nothing is known to have been disturbed.
        calm = [max(a[number], b[number]) <= MOST_WAITED for a, b in waits]
        undisturbed = [ratio for ratio, kept in zip(ratios, calm, strict=True) if kept]
        extremes = (min(ours) / max(theirs), max(ours) / min(theirs))
        found[phase] = Pairs(ratios, undisturbed, extremes)
    return found


def _of_arm(arm: Arm, own: dict[str, Any], job: Job, board: Board | None) -> list[Measurement]:
    found = [
        measured("tokens_per_second", [job.batch / seconds for seconds in arm.rest], **own),
        measured("time_per_output_token", arm.rest, **own),
        measured("time_to_first_token", arm.first, **own),
        measured("prefill_tokens_per_second", [job.batch * job.prompt / s for s in arm.first], **own),
        single("threads", arm.threads, **own),
    ]
    for statistic, fewest in (("p95", 20), ("p99", 100)):
        # The nth percentile of fewer samples than 100 ÷ (100 − n) would be their maximum under another name.
        for metric, samples in (("time_per_output_token", arm.rest), ("time_to_first_token", arm.first)):
            if len(samples) >= fewest:
                found.append(measured(f"{metric}_{statistic}", samples, statistic, **own))
    if board is not None:
        # The cache is read as far as it is filled: on average the prompt and half of the new tokens.
        moved = bytes_per_step(job.shape, job.element, job.prompt + job.new_tokens // 2, job.batch)
        peak = board.memory_bandwidth * job.ranks
        found.append(measured("bandwidth_utilisation", [moved / s / peak for s in arm.rest], **own))
    if arm.peak is not None:
        found.append(single("peak_memory", arm.peak, **own))
    if arm.launches is not None:
        for metric, calls in (
            ("graph_replays", arm.launches.replays),
            ("graph_captures", arm.launches.captures),
            ("plain_launches", arm.launches.plain),
        ):
            found.append(single(metric, calls / arm.counted_steps, **own))
    return found


def slow(measurements: Sequence[Measurement]) -> str | None:
    """Why the caller's environment is surely slower than a clean one, or None."""
    for found in measurements:
        interval = median_interval(found.samples) if found.name == "clean_ratio" else None
        if interval is not None and interval.high < RATIO_FLOOR:
            return (
                f"{found.labels['phase']} reaches {found.value:.0%} of its speed in a clean environment (at most"
                f" {interval.high:.0%}); python -m runner.probes.stale_env names the leftovers"
            )
    return None


def graphs_lost(arm: Arm) -> str | None:
    """Why a step that was compiled for CUDA graphs does not re-use them, or None where it does or nobody counted."""
    if arm.launches is None:
        return None
    replays, captures = arm.launches.replays / arm.counted_steps, arm.launches.captures
    if captures:
        return (
            f"CUDA graphs are captured anew in steady state ({captures} times in {arm.counted_steps} steps)"
        )
    if replays < 1:
        return (
            f"CUDA graphs are not re-used: {replays:g} replays and {arm.launches.plain / arm.counted_steps:g} single"
            " launches a step; look for 'skipping cudagraphs' with TORCH_LOGS=cudagraphs, and for leftover switches"
        )
    return None
