"""What is reported of drills in which the steps are compared: a slow rank, healthy ranks, a rank with a NaN."""

from collections.abc import Sequence
from dataclasses import asdict

from runner.entry.model import Scalar
from runner.kit.drill.drill_report import DrillReport, Labels, fault_in_words, score
from runner.kit.drill.guarded_ranks import drill_guarded, guarded_measurements
from runner.kit.drill.hang_report import as_details
from runner.kit.drill.injection import Injection
from runner.kit.drill.job import JobShape
from runner.kit.drill.split import StepSplit
from runner.kit.drill.stepping import StepsDrill, drill_nan, drill_steps
from runner.kit.probe import measured, say, single
from runner.record.model import Measurement


def report_steps(
    shape: JobShape, faults: Sequence[Injection | None], steps: int, labels: Labels
) -> DrillReport:
    """Time the steps of ranks of which one has a neighbour, or of healthy ones (None), and compare them."""
    drills = []
    for fault in faults:
        drills.append(drill_steps(shape, fault, steps))
        say(f"{fault_in_words(fault)}: {_sentence(drills[-1].split)}")
    reasons = [reason for one in drills for reason in _reasons(one)]
    first = drills[0]
    measurements = score(
        [one.named for one in drills],
        [one.wrong_certain for one in drills],
        labels,
        injected=first.injection is not None,
    )
    measurements.append(single("slow_ranks", sum(one.split.slow is not None for one in drills), **labels))
    measurements += _times(first.split, first.injection, labels)
    details = [
        {
            "fault": fault_in_words(one.injection),
            "neighbours": one.neighbours,
            "slow_rank": one.split.slow,
            "look": as_details(one.look) if one.look else None,
        }
        for one in drills
    ]
    return DrillReport(measurements, reasons[0] if reasons else None, {"drills": details})


def report_nan(shape: JobShape, faults: Sequence[Injection], labels: Labels) -> DrillReport:
    """Put a NaN into the gradient of one rank, count where it is, and let ranks that train under the guard name it."""
    drills = []
    for fault in faults:
        drills.append(drill_nan(shape, fault))
        say(f"{fault_in_words(fault)}; a NaN before the reduction on ranks {list(drills[-1].sources)}")
    measurements = score(
        [one.sources == (one.injection.rank,) for one in drills],
        [bool(one.sources) and one.sources != (one.injection.rank,) for one in drills],
        labels,
        injected=True,
    )
    first = drills[0]
    after = sum(count > 0 for count in first.summed)
    measurements.append(single("nonfinite_ranks", len(first.sources), **labels))
    measurements.append(single("nonfinite_ranks_after", after, **labels))
    guarded = drill_guarded(shape, faults)
    for trained in guarded:
        say(
            f"{trained.parallel}: injected in {trained.expected}; named by the guard: {trained.found or 'nothing'}"
        )
    measurements += guarded_measurements(guarded, labels)
    found = [one.sources for one in drills if one.sources]
    reason = None
    if found:
        listed = ", ".join(map(str, found[0]))
        reason = f"before the reduction, only the gradient of rank {listed} has a NaN; after it, those of {after} ranks"
    details = {
        "own": list(first.own),
        "summed": list(first.summed),
        "guarded": [asdict(one) for one in guarded],
    }
    return DrillReport(measurements, reason, details)


def _sentence(split: StepSplit) -> str:
    slow = "no rank" if split.slow is None else f"rank {split.slow}"
    return (
        f"{slow} is steadily slow; rank {split.slowest} computes {split.slowest_over_median:.2f} times as long as the"
        f" median, and rank {split.least_waiting} waits least"
    )


def _reasons(one: StepsDrill) -> list[str]:
    found = [] if one.split.slow is None else [_sentence(one.split)]
    verdict = one.look.verdict if one.look else None
    return [*found, verdict.sentence] if verdict is not None and verdict.culprits else found


def _times(split: StepSplit, fault: Injection | None, labels: Labels) -> list[Measurement]:
    found = []
    for number, rank in enumerate(split.ranks):
        role = "culprit" if fault is not None and fault.rank == number else "other"
        whose: dict[str, Scalar] = {**labels, "rank": number, "role": role}
        found.append(measured("compute_time", rank.compute, **whose))
        found.append(measured("wait_time", rank.wait, **whose))
    return [
        *found,
        single("compute_share", split.compute_share, **labels),
        single("slowest_over_median", split.slowest_over_median, **labels),
        single("least_wait_is_slowest", int(split.least_waiting == split.slowest), **labels),
    ]
