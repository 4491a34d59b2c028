"""What entry pages and the matrix show, worked out before any template sees it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from runner.base.units import format_value
from runner.base.words import bracketed
from runner.entry.digest import is_current
from runner.entry.model import Condition, Expectation, Runbook, Scalar, Step
from runner.history.endings import RanStep, scope_words
from runner.pages.evidence import SiteEvidence
from runner.pages.numbers import Number, across_nodes, number, show_interval, show_labels
from runner.record.evaluation import Evaluated, evaluate, fits, fits_class
from runner.record.headline import key_measurement
from runner.record.model import Outcome, Record, StepResult, Verdict
from runner.record.simulated import NOT_COUNTED
from runner.vocabulary import METRICS, label_of

# The state of a step that ran against a stand-in for its hardware.
SIMULATED = "simulated"


@dataclass(frozen=True)
class Bound:
    """An expectation beneath its step, judged afresh for one class."""

    id: str
    text: str
    evidence: str
    source: str
    decides: bool
    verdict: Verdict
    shown: str
    note: str


@dataclass(frozen=True)
class StepEvidence:
    """The evidence of one step on one class; `result` is None if it is unmeasured."""

    machine_class: str
    result: StepResult | None
    record: Record | None
    state: str
    reason: str
    stale: bool
    key: Number | None
    numbers: tuple[Number, ...]
    bounds: tuple[Bound, ...]


def step_evidence(runbook: Runbook, step: Step, evidence: SiteEvidence) -> tuple[StepEvidence, ...]:
    """One row a class, in the order of the matrix."""
    return tuple(_on_class(runbook, step, evidence, name) for name in evidence.classes)


def _on_class(runbook: Runbook, step: Step, evidence: SiteEvidence, machine_class: str) -> StepEvidence:
    found = evidence.step(machine_class, runbook.id, step.id)
    bounds = _bounds_of(runbook, step)
    if found is None:
        state, reason = _why_unmeasured(runbook, step, evidence, machine_class)
        judged = tuple(_bound(bound, None) for bound in bounds if fits_class(bound.on, machine_class))
        return StepEvidence(machine_class, None, None, state, reason, False, None, (), judged)
    record, result = found
    nodes = evidence.nodes(machine_class, runbook.id, step.id)
    numbers = tuple(number(one, across_nodes(nodes, one)) for one in result.measurements)
    return StepEvidence(
        machine_class=machine_class,
        result=result,
        record=record,
        state=result.status.value,
        reason=result.reason or "",
        stale=not is_current(result.digest, runbook, step),
        key=_key(result, nodes),
        numbers=numbers,
        bounds=tuple(
            _bound(bound, evaluate(bound, record.steps, record.machine))
            for bound in bounds
            if fits(bound.on, record.machine)
        ),
    )


def bounds_elsewhere(runbook: Runbook, step: Step, evidence: SiteEvidence) -> tuple[Bound, ...]:
    """Expectations of a step that are meant for hardware of which no class is shown."""
    return tuple(
        _bound(bound, None)
        for bound in _bounds_of(runbook, step)
        if not any(fits_class(bound.on, name) for name in evidence.classes)
    )


def _bounds_of(runbook: Runbook, step: Step) -> list[Expectation]:
    return [bound for bound in runbook.head.expectations if bound.metric.partition(".")[0] == step.id]


def _why_unmeasured(
    runbook: Runbook, step: Step, evidence: SiteEvidence, machine_class: str
) -> tuple[str, str]:
    run = evidence.run(machine_class, runbook.id)
    last = next((result for result in run.steps if result.id == step.id), None) if run else None
    if last is None:
        return "unmeasured", "no record of this step on this class"
    if last.simulated:
        return SIMULATED, NOT_COUNTED
    return last.status.value, last.reason or ""


def _key(result: StepResult, nodes: Sequence[RanStep]) -> Number | None:
    key = key_measurement(result)
    shown = number(key, across_nodes(nodes, key)) if key else None
    return replace(shown, fallback=result.fallback_reason or "") if shown else None


def _bound(expectation: Expectation, judged: Evaluated | None) -> Bound:
    verdict = judged.verdict if judged else Verdict.NOT_EVALUATED
    shown = format_value(judged.value, judged.unit) if judged else "unmeasured"
    if judged and judged.interval:
        shown += f", {show_interval(judged.interval, judged.unit)}"
    return Bound(
        id=expectation.id,
        text=expectation.text or condition_text(expectation),
        evidence=expectation.evidence.value,
        source=expectation.source,
        decides=expectation.evidence.decides,
        verdict=verdict,
        shown=shown,
        note=(judged.note or "") if judged else "",
    )


def condition_text(condition: Condition) -> str:
    """A bound in words: `Bus bandwidth (bytes 8GiB) of step busbw at least 800 GB/s, on 8 × B200`."""
    text = _measured(condition.metric, condition.at)
    if condition.over:
        over_at = condition.at if condition.over_at is None else condition.over_at
        text += f" ÷ {_measured(condition.over, over_at)}"
    unit = condition.unit or ("" if condition.over else METRICS[condition.metric.partition(".")[2]].unit)
    unit = f" {unit}" if unit not in {"", "1"} else ""
    if condition.min is not None:
        text += f" at least {condition.min:g}{unit}"
    if condition.max is not None:
        text += f"{' and' if condition.min is not None else ''} at most {condition.max:g}{unit}"
    if condition.on:
        text += f", on {condition.on.words}"
    return text


def _measured(metric: str, at: Mapping[str, Scalar]) -> str:
    step, _, name = metric.partition(".")
    return f"{label_of(name)}{bracketed(show_labels(at))} of step {step}"


@dataclass(frozen=True)
class Beside:
    """A newer run of a narrower scope that found the issue: its outcome, its time, and its scope."""

    state: str
    when: datetime
    scope: str


@dataclass(frozen=True)
class MatrixCell:
    """One entry on one class: outcome in words, time, and the number that represents it.

    Attributes:
        why: where a drill passed, the sentence that says what was not measured.
        beside: newer narrower runs that found the issue.
    """

    machine_class: str
    state: str
    when: datetime | None
    key: Number | None
    stale: bool
    why: str = ""
    beside: tuple[Beside, ...] = ()

    @property
    def urgency(self) -> int:
        """Place of the most urgent outcome in `URGENCY`, to sort by."""
        return min(URGENCY.index(state) for state in (self.state, *(one.state for one in self.beside)))


def matrix_row(runbook: Runbook, evidence: SiteEvidence) -> tuple[MatrixCell, ...]:
    """One cell a class; a class without a record reads unmeasured."""
    return tuple(_cell(runbook, evidence, name) for name in evidence.classes)


def _cell(runbook: Runbook, evidence: SiteEvidence, machine_class: str) -> MatrixCell:
    stands = evidence.standings.get((machine_class, runbook.id))
    if stands is None:
        return MatrixCell(machine_class, "unmeasured", None, None, False)
    ran = [result for result in stands.record.steps if result.counts]
    # The number that the entry chose, else the last one: Verify is the strongest evidence.
    chosen = [result for result in ran if result.id == runbook.head.headline]
    keys = (
        _key(result, evidence.nodes(machine_class, runbook.id, result.id))
        for result in (*chosen, *reversed(ran))
    )
    stale = any(has_changed(runbook, result) for result in ran)
    return MatrixCell(
        machine_class,
        stands.judged.outcome.value,
        stands.record.started_at,
        next(filter(None, keys), None),
        stale,
        stands.judged.why,
        tuple(
            Beside(found.outcome.value, run.started_at, scope_words(run.options))
            for run, found in stands.beside
        ),
    )


# The most urgent outcome first.
URGENCY: tuple[str, ...] = (
    *(Outcome.NOT_FIXED, Outcome.SYMPTOM, Outcome.INCOMPLETE, Outcome.INCONCLUSIVE, Outcome.NOT_REPRODUCED),
    *(Outcome.DRILL_PASSED, Outcome.HEALTHY, Outcome.FIX_PROVED, Outcome.NOT_APPLICABLE, "unmeasured"),
)


def by_urgency(row: tuple[Runbook, tuple[MatrixCell, ...]]) -> tuple[int, int]:
    """Sorts rows of the matrix: the most urgent of their outcomes, then the number."""
    runbook, cells = row
    return min(cell.urgency for cell in cells), runbook.head.number


def has_changed(runbook: Runbook, result: StepResult) -> bool:
    """Whether the entry no longer has the step of this result as it was."""
    step = runbook.step(result.id)
    return step is None or not is_current(result.digest, runbook, step)


def shown_records(runbooks: Sequence[Runbook], evidence: SiteEvidence) -> tuple[Record, ...]:
    """The records that some page takes a number or an outcome from, each once."""
    ids = {runbook.id for runbook in runbooks}
    found = {
        record.run_id: record
        for (_, runbook, _, _), nodes in evidence.finished.items()
        if runbook in ids
        for record, _ in nodes
    }
    for (_, runbook), stands in evidence.standings.items():
        if runbook in ids:
            shown = (stands.record, *(record for record, _ in stands.beside))
            found |= {record.run_id: record for record in shown}
    return tuple(sorted(found.values(), key=lambda record: record.run_id))
