"""What is reported of drills in which ranks wait for one of them."""

import argparse
import math
from collections.abc import Mapping, Sequence

from runner.entry.model import Scalar
from runner.kit.drill.drill_report import DrillReport, Labels, fault_in_words, score
from runner.kit.drill.hanging import HangDrill, drill_hang, drill_timeout
from runner.kit.drill.injection import Injection
from runner.kit.drill.job import JobShape
from runner.kit.probe import measured, say, single
from runner.record.model import Measurement


def report_hangs(
    shape: JobShape, faults: Sequence[Injection], arguments: argparse.Namespace, labels: Labels
) -> DrillReport:
    """Run a job into each fault, look at it, and compare the verdict with the fault."""
    drills = []
    for fault in faults:
        one = drill_hang(shape, fault, arguments.timeout, to_the_end=not arguments.look_only)
        drills.append(one)
        said = one.verdict.sentence if one.verdict else "nothing was seen of the ranks"
        right = "as injected" if one.named else "not as injected"
        say(f"{fault_in_words(fault)}; seen in {one.look_s:.1f} s ({one.source}), {right}: {said}")
    measurements = score(
        [one.named for one in drills], [one.wrong_certain for one in drills], labels, injected=True
    )
    measurements.append(measured("hang_look_time", [one.look_s for one in drills], **labels))
    if asked := [float(one.ras.healthy) for one in drills if one.ras is not None]:
        measurements.append(single("ras_healthy", sum(asked), **labels))
    if len(drills) == 1 and drills[0].complaining is not None:
        measurements += _endings(drills[0], labels)
    found = [one.verdict.sentence for one in drills if one.verdict and one.verdict.culprits]
    return DrillReport(
        measurements, found[0] if found else None, {"drills": [as_details(one) for one in drills]}
    )


def report_timeouts(
    shape: JobShape, fault: Injection, arguments: argparse.Namespace, labels: Labels
) -> DrillReport:
    """Run a job into one fault at each timeout, and see whether it goes on."""
    timeouts = sorted(set(arguments.timeouts))
    between = math.sqrt(timeouts[0] * timeouts[-1]) if len(timeouts) > 1 else timeouts[0] / 2
    late_s = arguments.lateness or between
    drills, measurements, ended = [], [single("drill_faults", len(timeouts), **labels)], []
    for timeout in timeouts:
        one = drill_timeout(shape, fault, timeout, late_s)
        drills.append(one)
        measurements += _endings(one, labels)
        ended += [] if one.survived else [f"{timeout:g} s"]
        what = "the job goes on" if one.survived else f"{len(one.complaining or ())} ranks end with an error"
        say(f"{fault_in_words(fault)}, timeout {timeout:g} s: {what}")
    reason = (
        f"{fault_in_words(fault)}: the job ended at a timeout of {' and of '.join(ended)}" if ended else None
    )
    return DrillReport(
        measurements, reason, {"lateness_s": late_s, "drills": [as_details(one) for one in drills]}
    )


def as_details(one: HangDrill) -> Mapping[str, object]:
    """For the details of a document."""
    verdict = one.verdict
    return {
        "fault": fault_in_words(one.injection),
        "kind": str(verdict.kind) if verdict else None,
        "culprits": list(verdict.culprits) if verdict else [],
        "certain": bool(verdict and verdict.certain),
        "sentence": verdict.sentence if verdict else None,
        "unseen": sorted({f"{one.source}: {one.reason}" for one in verdict.unseen}) if verdict else [],
        "named": one.named,
        "source": one.source,
        "look_s": one.look_s,
        "timeout_s": one.timeout_s,
        "complaining": None if one.complaining is None else list(one.complaining),
        "last_words": list(one.last_words),
    }


def _endings(one: HangDrill, labels: Labels) -> list[Measurement]:
    whole = one.timeout_s == int(one.timeout_s)
    timed: dict[str, Scalar] = {**labels, "timeout": int(one.timeout_s) if whole else one.timeout_s}
    return [
        single("ranks_complaining", len(one.complaining or ()), **timed),
        single("survived_timeout", int(bool(one.survived)), **timed),
    ]
