"""Drills of the topic `nonfinite`: the guard must name the module of an injected fault, and keep the weights."""

import argparse
from collections.abc import Callable, Mapping

from runner.kit.probe import Findings, say, single
from runner.kit.steps.nonfinite.attention import drill_masked_row
from runner.kit.steps.nonfinite.drilled import Drilled
from runner.kit.steps.nonfinite.faults import (
    drill_bad_sample,
    drill_gradient,
    drill_healthy,
    drill_overflow,
    drill_poisoned_save,
)
from runner.kit.steps.nonfinite.survival import drill_survived

_DRILLS: Mapping[str, Callable[[int, str], Drilled]] = {
    "overflow": drill_overflow,
    "masked-row": drill_masked_row,
    "bad-sample": drill_bad_sample,
    "nan-gradient": drill_gradient(float("nan")),
    "inf-gradient": drill_gradient(float("inf")),
    "poisoned-save": drill_poisoned_save,
}
# These run as many steps as are asked for.
_OF_STEPS: Mapping[str, Callable[[int], Callable[[int, str], Drilled]]] = {
    "none": drill_healthy,
    "survived": drill_survived,
}


def run(arguments: argparse.Namespace) -> Findings:
    """Drill the fault with each seed; the measurements of the fault itself are those of the first."""
    fault = arguments.fault
    drill = _DRILLS.get(fault) or _OF_STEPS[fault](arguments.steps)
    drills: list[Drilled] = []
    for turn in range(arguments.repeat):
        drills.append(drill(arguments.seed + turn, fault))
        say(drills[-1].sentence)
    findings = sum(one.findings for one in drills)
    measurements = [
        single("nonfinite_findings", findings, fault=fault),
        single("guarded_steps", sum(one.steps for one in drills), fault=fault),
        *drills[0].measurements,
    ]
    if fault != "none":
        measurements.insert(0, single("module_named", sum(one.named for one in drills), fault=fault))
    reason = next((one.sentence for one in drills if one.symptom), None)
    return Findings(
        measurements=measurements,
        status="symptom" if reason else "ok",
        reason=reason,
        requested={"topic": "nonfinite", "fault": fault, "seed": arguments.seed, "repeat": arguments.repeat},
        details={"drills": [one.sentence for one in drills]},
    )
