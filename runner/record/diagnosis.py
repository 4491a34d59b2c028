"""The result of `runbook diagnose`: every entry's findings, ranked, and the steps that did not run. Pure.

`diagnose` runs only steps that read, so it can find an issue and can never prove a node healthy: the steps that did not
run are part of the result, each with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import JsonValue

from runner.base.remedy import shell_lines
from runner.entry.model import Runbook, Safety, Severity
from runner.record.model import StepResult, StepStatus
from runner.record.outcomes import unrequested_fallback
from runner.record.settings import step_settings
from runner.record.simulated import NOT_COUNTED

_GRAVEST_FIRST = tuple(reversed(Severity))


class State(StrEnum):
    """What is known of one entry's issue on this node, the most urgent first.

    `found`: a step shows it. `hint`: a step passed and reported something to check. `unknown`: a step that should
    have run was blocked. `clear`: the steps that ran have no findings. `not_looked`: no step ran.
    """

    FOUND = "found"
    HINT = "hint"
    UNKNOWN = "unknown"
    CLEAR = "clear"
    NOT_LOOKED = "not_looked"


@dataclass(frozen=True)
class StepFinding:
    """What one step found.

    Attributes:
        severity: the highest that its probe gave to a finding, else the entry's own.
        counts: how many findings of each severity, the highest first; ranks entries that found something.
        undo: shell lines that undo it, if the probe names them: code, or a comment for a person.
    """

    step: str
    severity: Severity
    said: str
    counts: tuple[int, ...]
    undo: tuple[str, ...] = ()


class Obstacle(StrEnum):
    """Why `diagnose` has no result of a step.

    `blocked`: it should have run, and something kept it from running or from ending. `gpus`, `nodes`: it needs more
    than there are here. `loads`, `changes`: it does more than read. `other`: it does not apply here.
    """

    BLOCKED = "blocked"
    GPUS = "gpus"
    NODES = "nodes"
    LOADS = "loads"
    CHANGES = "changes"
    OTHER = "other"


@dataclass(frozen=True)
class NotLooked:
    """A step without a result, and why."""

    step: str
    why: str
    kind: Obstacle

    @property
    def blocked(self) -> bool:
        """Whether it should have run: its entry's issue is then unknown."""
        return self.kind is Obstacle.BLOCKED


@dataclass(frozen=True)
class Diagnosis:
    """One entry on this node. `settings`: what its steps read of the node that should be equal on all nodes."""

    entry: str
    number: int
    title: str
    state: State
    findings: tuple[StepFinding, ...]
    hints: tuple[str, ...]
    looked: tuple[str, ...]
    not_looked: tuple[NotLooked, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def severity(self) -> Severity | None:
        """The highest of its findings; None without a finding."""
        return next((one for one in _GRAVEST_FIRST if any(f.severity is one for f in self.findings)), None)

    @property
    def said(self) -> str:
        """The most severe finding, or the first hint, in one line; empty if there is neither."""
        if self.findings:
            return max(self.findings, key=lambda finding: finding.counts).said
        return self.hints[0] if self.hints else ""

    @property
    def fix(self) -> tuple[str, ...]:
        """Shell lines that undo the findings; if no probe names any, the command that shows the entry."""
        undo = dict.fromkeys(line for finding in self.findings for line in finding.undo)
        return tuple(undo) or (f"runbook show {self.entry}",)

    @property
    def page(self) -> str:
        """The entry's page, from the root of the site."""
        return f"entries/{self.entry}.html#fix"


def diagnose_entry(
    runbook: Runbook,
    results: Sequence[StepResult],
    blocked: Iterable[str] = (),
    *,
    gpus: int = 0,
    rehearsed: bool = False,
) -> Diagnosis:
    """Sort an entry's results into findings, hints, and steps without a result.

    A step that ran something else than it was asked to (an unrequested fallback) says nothing about the issue: it
    counts as blocked. So does a simulated one.

    Args:
        runbook: the entry.
        results: of its Diagnose steps, those that were skipped with their reasons.
        blocked: ids of skipped steps that apply to this node, and that the node itself kept from running.
        gpus: how many GPUs this node has.
        rehearsed: the node itself is simulated, so that simulated steps are judged like any others.
    """
    kept_from = frozenset(blocked)
    findings, hints, looked, blind = [], [], [], []
    settings: dict[str, str] = {}
    for result in results:
        settings |= step_settings(result, rehearsed=rehearsed)
        if unrequested_fallback(result):
            blind.append(NotLooked(result.id, result.reason or "unrequested fallback", Obstacle.BLOCKED))
            continue
        if result.simulated and not rehearsed:
            blind.append(NotLooked(result.id, NOT_COUNTED, Obstacle.BLOCKED))
            continue
        if result.status in {StepStatus.SYMPTOM, StepStatus.FAILED}:
            findings.append(_finding(runbook, result))
        elif result.status is StepStatus.PASSED and result.reason:
            hints.append(result.reason)
        if result.status.finished:
            looked.append(result.id)
        else:
            in_the_way = result.status.broken or result.id in kept_from
            kind = Obstacle.BLOCKED if in_the_way else _kind(runbook, result.id, gpus)
            blind.append(NotLooked(result.id, result.reason or result.status.value, kind))
    head = runbook.head
    state = _state(findings, hints, looked, blind)
    return Diagnosis(
        head.id,
        head.number,
        head.title,
        state,
        tuple(findings),
        tuple(hints),
        tuple(looked),
        tuple(blind),
        settings,
    )


def _kind(runbook: Runbook, step_id: str, gpus: int) -> Obstacle:
    step = runbook.step(step_id)
    if step is None:
        return Obstacle.OTHER
    if step.gpus > gpus:
        return Obstacle.GPUS
    if step.nodes > 1:
        return Obstacle.NODES
    return {Safety.LOADS_DEVICE: Obstacle.LOADS, Safety.CHANGES_HOST: Obstacle.CHANGES}.get(
        step.safety, Obstacle.OTHER
    )


def _state(
    findings: Sequence[StepFinding], hints: Sequence[str], looked: Sequence[str], blind: Sequence[NotLooked]
) -> State:
    if findings:
        return State.FOUND
    if hints:
        return State.HINT
    if any(one.blocked for one in blind):
        return State.UNKNOWN
    return State.CLEAR if looked else State.NOT_LOOKED


def _finding(runbook: Runbook, result: StepResult) -> StepFinding:
    graded = [_severity(one) for one in _list(result.details.get("findings"))]
    counts = tuple(graded.count(severity) for severity in _GRAVEST_FIRST)
    named = next((severity for severity in _GRAVEST_FIRST if severity in graded), None)
    if named is None:
        named = runbook.head.severity
        counts = tuple(int(severity is named) for severity in _GRAVEST_FIRST)
    undo, by_hand = (_texts(result.details.get(name)) for name in ("undo", "by_hand"))
    said = " ".join((result.reason or result.status.value).split())
    return StepFinding(result.id, named, said, counts, tuple(shell_lines(undo, by_hand)))


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _texts(value: JsonValue) -> list[str]:
    return [one for one in _list(value) if isinstance(one, str)]


def _severity(finding: JsonValue) -> Severity | None:
    given = finding.get("severity") if isinstance(finding, dict) else None
    return Severity(given) if given in list(Severity) else None


def rank(diagnoses: Iterable[Diagnosis]) -> tuple[Diagnosis, ...]:
    """The most urgent first: entries with findings, by their severity and number; then hints; then the rest."""
    order = list(State)

    def urgency(one: Diagnosis) -> tuple[int, list[int], int]:
        graves = max((finding.counts for finding in one.findings), default=())
        return order.index(one.state), [-count for count in graves], one.number

    return tuple(sorted(diagnoses, key=urgency))


def diagnosis_status(diagnoses: Sequence[Diagnosis]) -> int:
    """1 if an issue was found; 3 (unknown) if a step was blocked or no step ran; else 0."""
    if any(one.findings for one in diagnoses):
        return 1
    blocked = any(blind.blocked for one in diagnoses for blind in one.not_looked)
    return 3 if blocked or not any(one.looked for one in diagnoses) else 0


def grave(diagnoses: Iterable[Diagnosis]) -> bool:
    """Whether anything of severity high or above was found: a reason to take a node out of service."""
    return any(one.severity in {Severity.HIGH, Severity.CRITICAL} for one in diagnoses)


def as_json(diagnoses: Sequence[Diagnosis]) -> list[Mapping[str, Any]]:
    """For programs: one object an entry, ranked as given."""
    return [
        {
            "entry": one.entry,
            "number": one.number,
            "title": one.title,
            "state": one.state.value,
            "severity": one.severity.value if one.severity else None,
            "finding": one.said,
            "findings": [
                {"step": f.step, "severity": f.severity.value, "said": f.said, "undo": list(f.undo)}
                for f in one.findings
            ],
            "hints": list(one.hints),
            "fix": list(one.fix) if one.findings else [],
            "page": one.page,
            "looked": list(one.looked),
            "not_looked": [{**asdict(blind), "blocked": blind.blocked} for blind in one.not_looked],
        }
        for one in diagnoses
    ]
