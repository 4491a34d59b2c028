"""The fix against its fault: one measurement before and after, in one run. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runner.entry.model import Condition, Phase, Runbook, Scalar
from runner.pages.change import ChangeText, change_text
from runner.pages.evidence import SiteEvidence
from runner.pages.numbers import Number, number, show_labels
from runner.record.evaluation import fitting
from runner.record.headline import key_measurement
from runner.record.model import Measurement, Record, StepResult, StepStatus
from runner.vocabulary import METRICS

MOST_PAIRS = 6
# A step that compares environments measures the caller's, which has the fault, and a clean one as its control.
_ARM, _CALLER, _CONTROL = "arm", "caller", "clean"
# What the entry names of a step: metric, labels, and how much it decides (0: its proof).
_Named = list[tuple[str | None, Mapping[str, Scalar], int]]
_UNNAMED = 3
_Measured = tuple[StepResult, Measurement]
# A label that names a treatment: where the entry judges one value of it in Verify, the others are its controls.
_TREATMENT = "mode"


@dataclass(frozen=True)
class Pair:
    """One measurement before and after the fix, in one run: so on one node, with one set of versions.

    Attributes:
        name: of the metric.
        before_labels, after_labels: in words; they differ where the fix is another mode.
        rank: the lower, the more it decides.
    """

    machine_class: str
    record: Record
    name: str
    before_labels: str
    after_labels: str
    before_step: str
    after_step: str
    before: Number
    after: Number
    change: ChangeText
    rank: int

    @property
    def decisive(self) -> bool:
        """Whether the proof, the headline or an expectation of the entry names it."""
        return self.rank < _UNNAMED


def before_and_after(runbook: Runbook, evidence: SiteEvidence) -> tuple[Pair, ...]:
    """What a step with the fault and a step of Verify both measured, in each class's run; what decides comes first.

    The fault is there in Reproduce, and in a step of Diagnose that found the symptom. Control arms are left out: they
    never had the fault.
    """
    found: list[Pair] = []
    for machine_class in evidence.classes:
        run = evidence.run(machine_class, runbook.id)
        if run is not None:
            told = [one for one in _pairs(runbook, machine_class, run) if one.decisive or not one.change.same]
            found += sorted(told, key=lambda one: (not one.decisive, one.change.same, one.rank))[:MOST_PAIRS]
    return tuple(found)


def _pairs(runbook: Runbook, machine_class: str, run: Record) -> Iterator[Pair]:
    ran = [step for step in run.steps if step.counts]
    faulty = [step for step in ran if step.phase is Phase.REPRODUCE]
    faulty += [step for step in ran if step.phase is Phase.DIAGNOSE and step.status is StepStatus.SYMPTOM]
    seen: set[tuple[str, str]] = set()
    for after_step in (step for step in ran if step.phase is Phase.VERIFY):
        named = _named(runbook, after_step)
        for after in after_step.measurements:
            key = (after.name, str(sorted(after.labels.items())))
            if not _telling(after) or _is_control(after, named) or key in seen:
                continue
            partner = _partner(after, faulty)
            if partner is None:
                continue
            seen.add(key)
            before_step, before = partner
            control = _control((before_step, before), (after_step, after))
            yield Pair(
                machine_class=machine_class,
                record=run,
                name=after.name,
                before_labels=show_labels(_without(before.labels, (_ARM,))),
                after_labels=show_labels(_without(after.labels, (_ARM,))),
                before_step=before_step.id,
                after_step=after_step.id,
                before=number(before),
                after=number(after),
                change=change_text(before, after, control),
                rank=_rank(after, after_step, named),
            )


def _telling(measurement: Measurement) -> bool:
    metric = METRICS.get(measurement.name)
    return metric is not None and metric.better is not None


def _named(runbook: Runbook, step: StepResult) -> _Named:
    """All that the entry names of a step: its proof, its headline, its expectations."""
    key = key_measurement(step)
    named: _Named = [
        (item.measurement or (key.name if key else None), item.at, 0)
        for item in runbook.head.proof
        if item.step == step.id
    ]
    if runbook.head.headline == step.id and key is not None:
        named.append((key.name, key.labels, 1))
    bounds: list[Condition] = [one for one in runbook.head.expectations if one.evidence.decides]
    named += [
        (one.metric.partition(".")[2], one.at, 2) for one in bounds if one.metric.startswith(f"{step.id}.")
    ]
    return named


def _rank(after: Measurement, step: StepResult, named: _Named) -> int:
    ranks = [
        rank
        for name, labels, rank in named
        if after.name == name and after in fitting(step.measurements, after.name, labels)
    ]
    return min(ranks, default=_UNNAMED)


def _is_control(after: Measurement, named: _Named) -> bool:
    if after.labels.get(_ARM) == _CONTROL:
        return True
    wanted = {labels[_TREATMENT] for _, labels, _ in named if _TREATMENT in labels}
    return bool(wanted) and after.labels.get(_TREATMENT, next(iter(wanted))) not in wanted


def _partner(after: Measurement, faulty: list[StepResult]) -> _Measured | None:
    """The same measurement in a step with the fault, else the only one that differs just in its mode."""
    for ignored in ((), (_TREATMENT,)):
        for step in faulty:
            same = [
                one
                for one in step.measurements
                if (one.name, one.unit) == (after.name, after.unit)
                and _without(one.labels, ignored) == _without(after.labels, ignored)
            ]
            if len(same) == 1:
                return step, same[0]
    return None


def _without(labels: Mapping[str, Scalar], ignored: tuple[str, ...]) -> dict[str, Scalar]:
    return {name: value for name, value in labels.items() if name not in ignored}


def _control(*sides: _Measured) -> tuple[Measurement, Measurement] | None:
    """The control arm of both steps, where both measured it."""
    if sides[-1][1].labels.get(_ARM) != _CALLER:
        return None
    match [
        other
        for step, one in sides
        for other in step.measurements
        if (other.name, other.labels) == (one.name, {**one.labels, _ARM: _CONTROL})
    ]:
        case [before, after]:
            return before, after
    return None
