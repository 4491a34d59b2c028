"""What `rank_drill` does: the drill that its arguments ask for, and what is reported of it."""

import argparse
from collections.abc import Sequence

from runner.base.errors import InputError
from runner.entry.model import Scalar
from runner.kit.drill.defaults import HANGS, RENDEZVOUS_FAULTS
from runner.kit.drill.hang_report import report_hangs, report_timeouts
from runner.kit.drill.injection import chosen
from runner.kit.drill.job import shape_of
from runner.kit.drill.rendezvous_faults import RendezvousEnding, drill_rendezvous
from runner.kit.drill.split import PARTS
from runner.kit.drill.steps_report import report_nan, report_steps
from runner.kit.drill.vote_report import report_votes
from runner.kit.options import require_positive, value_of
from runner.kit.probe import Findings, say, single
from runner.vocabulary.sources import DRILL

_RENDEZVOUS_S = 3.0
# All ranks are processes of one host.
_MOST = {"--ranks": 256, "--repeat": 1_000, "--steps": 100_000}


def drill_findings(arguments: argparse.Namespace) -> Findings:
    """Inject the fault, look for it without the knowledge of it, and compare.

    Raises:
        InputError: an option is out of range, or does not suit the fault.
        NotApplicableError: this host cannot have the fault.
        RankError: the ranks did not come to the fault.
    """
    _check(arguments)
    fault = arguments.fault
    if fault in RENDEZVOUS_FAULTS:
        return _rendezvous(drill_rendezvous(fault, arguments.timeout or _RENDEZVOUS_S))
    shape = shape_of(arguments)
    labels: dict[str, Scalar] = {"fault": fault, "ranks": shape.ranks, "backend": shape.backend}
    faults = [chosen(fault, arguments.seed + turn, shape.ranks) for turn in range(arguments.repeat)]
    if arguments.timeouts:
        report = report_timeouts(shape, faults[0], arguments, labels)
    elif fault in HANGS:
        report = report_hangs(shape, faults, arguments, labels)
    elif fault == "flip" or arguments.vote:
        report = report_votes(
            shape, faults if fault == "flip" else [None] * len(faults), arguments.seed, labels
        )
    elif fault == "nan":
        report = report_nan(shape, faults, labels)
    else:
        injected = faults if fault == "neighbour" else [None] * len(faults)
        report = report_steps(shape, injected, arguments.steps, labels)
    return Findings(
        measurements=report.measurements,
        status="symptom" if report.reason else "ok",
        reason=report.reason,
        requested={name: value_of(arguments, name) for name in ("fault", "ranks", "backend", "seed")},
        effective={
            "source": "ranks" if fault == "none" else DRILL,
            "ranks": shape.ranks,
            "backend": shape.backend,
        },
        details=report.details,
    )


def _check(arguments: argparse.Namespace) -> None:
    given = ("--timeout", "--lateness")
    require_positive(arguments, "--repeat", *(one for one in given if value_of(arguments, one) is not None))
    for option, most in _MOST.items():
        if (value_of(arguments, option) or 0) > most:
            raise InputError(f"{option} must be at most {most:,}, not {value_of(arguments, option):,}")
    if arguments.seed < 0:
        raise InputError(f"--seed must be zero or more, not {arguments.seed}")
    if arguments.steps < PARTS:
        raise InputError(
            f"--steps must be at least {PARTS}, not {arguments.steps}: runs are compared in parts"
        )
    if arguments.vote and arguments.fault not in {"none", "flip"}:
        raise InputError(f"--vote is for --fault none and flip, not for {arguments.fault}")
    if arguments.timeouts and (arguments.fault not in HANGS or min(arguments.timeouts) <= 0):
        raise InputError(f"--timeouts takes seconds above zero, and one of the faults {', '.join(HANGS)}")


def _rendezvous(endings: Sequence[RendezvousEnding]) -> Findings:
    measurements = [
        single("rendezvous_failure_time", one.seconds, fault=one.case) for one in endings if one.message
    ]
    if len(endings) > 1:
        measurements.append(single("same_message", int(endings[0].worded_like(endings[1]))))
    for one in endings:
        say(f"{one.case}: {one.ending} after {one.seconds:.1f} s: {one.message or 'no error'}")
    first = endings[0]
    return Findings(
        measurements=measurements,
        status="symptom" if first.message else "ok",
        reason=f"the rendezvous failed: {first.message}" if first.message else None,
        requested={"fault": first.case},
        details={
            "ending": first.ending,
            "message": first.message,
            "warnings": list(first.warnings),
            "endings": {
                one.case: {"message": one.message, "warnings": list(one.warnings)} for one in endings
            },
        },
    )
