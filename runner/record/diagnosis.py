"""The result of `runbook diagnose`: every entry's findings, ranked, and the steps that did not run. Pure.

`diagnose` runs only steps that read, so it can find an issue and can never prove a node healthy: the steps that did not
run are part of the result, each with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from runner.entry.model import Runbook, Safety, Severity
from runner.node.findings import Action
from runner.record.looked import Looked, looked_at
from runner.record.model import StepResult, StepStatus
from runner.record.outcomes import unrequested_fallback
from runner.record.settings import step_settings
from runner.record.simulated import NOT_COUNTED
from runner.record.step_findings import (
    GRAVEST_FIRST,
    SingleFinding,
    StepFinding,
    gravest,
    step_finding,
    with_action,
)


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


class Obstacle(StrEnum):
    """Why `diagnose` has no result of a step.

    `blocked`: it should have run, and something kept it from running or from ending. `gpus`, `nodes`: it needs more
    than there are here. `loads`, `changes`: it does more than read. `other`: it does not apply here. `finds_nothing`:
    it ran, and its result says nothing about this node (`runner.record.looked`).
    """

    BLOCKED = "blocked"
    GPUS = "gpus"
    NODES = "nodes"
    LOADS = "loads"
    CHANGES = "changes"
    OTHER = "other"
    FINDS_NOTHING = "finds_nothing"


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
    """One entry on this node.

    Attributes:
        hints: what steps that passed reported, of those that list no findings.
        notes: findings of steps that passed, which need nothing to be done.
        settings: what its steps read of the node that should be equal on all nodes.
    """

    entry: str
    number: int
    title: str
    state: State
    findings: tuple[StepFinding, ...]
    hints: tuple[str, ...]
    looked: tuple[str, ...]
    not_looked: tuple[NotLooked, ...]
    notes: tuple[SingleFinding, ...] = field(default=())
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def action(self) -> Action | None:
        """The gravest of its findings and notes; None if no probe names any."""
        return gravest([*(one.action for one in self.findings), *(one.action for one in self.notes)])

    @property
    def vendor(self) -> str | None:
        """The vendor's own action about its gravest finding, where it was read."""
        told = [one for finding in self.findings for one in finding.singles if one.vendor]
        return max(told, key=lambda single: single.rank, default=SingleFinding()).vendor

    @property
    def severity(self) -> Severity | None:
        """The highest of its findings; None without a finding."""
        return next((one for one in GRAVEST_FIRST if any(f.severity is one for f in self.findings)), None)

    @property
    def said(self) -> str:
        """The most urgent finding, or the first note or hint, in one line; empty if there is none."""
        if self.findings:
            return max(self.findings, key=lambda finding: finding.urgency).said
        return next(iter((*map(str, self.notes), *self.hints)), "")

    @property
    def fix(self) -> tuple[str, ...]:
        """Shell lines that undo the findings; if no probe names any, the command that shows the entry."""
        undo = dict.fromkeys(line for finding in self.findings for line in finding.undo)
        return tuple(undo) or (f"runbook show {self.entry}",)

    @property
    def blocked(self) -> int:
        """How many steps should have run and could not."""
        return sum(blind.blocked for blind in self.not_looked)

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
    counts as blocked. So does a simulated one. One that passed and looked at a sample, or that can find nothing in what
    it reads, is no check.

    Args:
        runbook: the entry.
        results: of its Diagnose steps, those that were skipped with their reasons.
        blocked: ids of skipped steps that apply to this node, and that the node itself kept from running.
        gpus: how many GPUs this node has.
        rehearsed: the node itself is simulated, so that simulated steps are judged like any others.
    """
    kept_from = frozenset(blocked)
    settings: dict[str, str] = {}
    findings: list[StepFinding] = []
    notes: list[SingleFinding] = []
    hints, looked, blind = [], [], []
    for result in results:
        settings |= step_settings(result, rehearsed=rehearsed)
        if unrequested_fallback(result):
            blind.append(NotLooked(result.id, result.reason or "unrequested fallback", Obstacle.BLOCKED))
            continue
        if result.simulated and not rehearsed:
            blind.append(NotLooked(result.id, NOT_COUNTED, Obstacle.BLOCKED))
            continue
        if result.status in {StepStatus.SYMPTOM, StepStatus.FAILED}:
            findings.append(step_finding(runbook, result))
        elif result.status is StepStatus.PASSED and (told := _notes(result)):
            notes += told
        elif result.status is StepStatus.PASSED and result.reason:
            hints.append(result.reason)
        look = looked_at(runbook, result)
        if result.status is StepStatus.PASSED and look is not Looked.NODE:
            blind.append(NotLooked(result.id, look.why, Obstacle.FINDS_NOTHING))
        elif result.status.finished:
            looked.append(result.id)
        else:
            in_the_way = result.status.broken or result.id in kept_from
            kind = Obstacle.BLOCKED if in_the_way else _kind(runbook, result.id, gpus)
            blind.append(NotLooked(result.id, result.reason or result.status.value, kind))
    head = runbook.head
    state = _state(findings, [*hints, *notes], looked, blind)
    return Diagnosis(
        head.id,
        head.number,
        head.title,
        state,
        tuple(findings),
        tuple(hints),
        tuple(looked),
        tuple(blind),
        tuple(notes),
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


def _notes(result: StepResult) -> list[SingleFinding]:
    return [one for one in with_action(result) if one.found]


def _state(
    findings: Sequence[StepFinding],
    hints: Sequence[object],
    looked: Sequence[str],
    blind: Sequence[NotLooked],
) -> State:
    if findings:
        return State.FOUND
    if hints:
        return State.HINT
    if any(one.blocked for one in blind):
        return State.UNKNOWN
    return State.CLEAR if looked else State.NOT_LOOKED


def rank(diagnoses: Iterable[Diagnosis]) -> tuple[Diagnosis, ...]:
    """The most urgent first: entries with findings, by what must be done, then severity and number; hints; the rest."""
    order = list(State)

    def urgency(one: Diagnosis) -> tuple[int, int, list[int], int]:
        grade, counts = max((finding.urgency for finding in one.findings), default=(0, ()))
        return order.index(one.state), -grade, [-count for count in counts], one.number

    return tuple(sorted(diagnoses, key=urgency))


def diagnosis_status(diagnoses: Sequence[Diagnosis]) -> int:
    """1 if an issue was found; 3 (unknown) if a step was blocked or no step ran; else 0."""
    if any(one.findings for one in diagnoses):
        return 1
    blocked = any(one.blocked for one in diagnoses)
    return 3 if blocked or not any(one.looked for one in diagnoses) else 0


def ends_service(diagnoses: Iterable[Diagnosis]) -> bool:
    """Whether a finding calls for a reset, a drain or a replacement: the node may start no further job before that."""
    return any(finding.ends_service for one in diagnoses for finding in one.findings)


def grave(diagnoses: Iterable[Diagnosis]) -> bool:
    """Whether a finding ends service; of those without an action, whether one has severity high or above."""
    severe = {Severity.HIGH, Severity.CRITICAL}
    return any(
        finding.ends_service or (finding.action is None and finding.severity in severe)
        for one in diagnoses
        for finding in one.findings
    )


def as_json(diagnoses: Sequence[Diagnosis]) -> list[Mapping[str, Any]]:
    """For programs: one object an entry, ranked as given."""
    return [
        {
            "entry": one.entry,
            "number": one.number,
            "title": one.title,
            "state": one.state.value,
            "action": one.action,
            "vendor": one.vendor,
            "severity": one.severity,
            "finding": one.said,
            "findings": [
                {
                    "step": f.step,
                    "action": f.action,
                    "severity": f.severity,
                    "said": f.said,
                    "undo": list(f.undo),
                    "singles": [single.as_json() for single in f.singles],
                }
                for f in one.findings
            ],
            "notes": [note.as_json() for note in one.notes],
            "hints": list(one.hints),
            "fix": list(one.fix) if one.findings else [],
            "page": one.page,
            "looked": list(one.looked),
            "not_looked": [{**asdict(blind), "blocked": blind.blocked} for blind in one.not_looked],
        }
        for one in diagnoses
    ]
