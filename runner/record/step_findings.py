"""What one step found, and the single findings in its result: what to do about each, where, and what. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from runner.base.remedy import shell_lines
from runner.entry.model import Runbook, Severity
from runner.node.findings import Action
from runner.record.model import StepResult, StepStatus

GRAVEST_FIRST = tuple(reversed(Severity))


@dataclass(frozen=True)
class SingleFinding:
    """One of the findings that a probe lists in `details.findings`.

    Attributes:
        action: what to do, if the probe tells.
        severity: if the probe tells.
        kind: what it is, in words joined by hyphens; empty if the probe tells none.
        where, found, next: as in `NodeFinding`; empty if the probe tells none.
        vendor: the vendor's own action, where it was read.
    """

    action: Action | None = None
    severity: Severity | None = None
    kind: str = ""
    where: str = ""
    found: str = ""
    next: str = ""
    vendor: str | None = None

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.found))) + (f"; {self.next}" if self.next else "")

    @property
    def rank(self) -> int:
        """0 for the least action; -1 without one."""
        return -1 if self.action is None else self.action.rank

    def as_json(self) -> dict[str, JsonValue]:
        """For programs."""
        return asdict(self)


def single_findings(details: Mapping[str, JsonValue]) -> tuple[SingleFinding, ...]:
    """The findings of a document's details, in their order; what has another form is left out."""
    listed = details.get("findings")
    return tuple(_single(one) for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()


def _single(given: Mapping[str, JsonValue]) -> SingleFinding:
    action, severity = given.get("action"), given.get("severity")
    kind, where, found, then, vendor = (
        value if isinstance(value := given.get(name), str) else ""
        for name in ("kind", "where", "found", "next", "vendor")
    )
    return SingleFinding(
        Action(action) if action in list(Action) else None,
        Severity(severity) if severity in list(Severity) else None,
        kind,
        where,
        found,
        then,
        vendor or None,
    )


def gravest(actions: Sequence[Action | None]) -> Action | None:
    """The gravest of these actions; None if there is none."""
    return max((one for one in actions if one is not None), key=lambda one: one.rank, default=None)


@dataclass(frozen=True)
class StepFinding:
    """What one step found.

    Attributes:
        severity: the highest that its probe gave to a finding, else the entry's own.
        counts: how many findings of each severity, the highest first; ranks entries that found something.
        undo: shell lines that undo it, if the probe names them: code, or a comment for a person.
        singles: the findings that have an action, the gravest first; empty if the probe names no action.
    """

    step: str
    severity: Severity
    said: str
    counts: tuple[int, ...]
    undo: tuple[str, ...] = ()
    singles: tuple[SingleFinding, ...] = ()

    @property
    def action(self) -> Action | None:
        """The gravest action; None if the probe names none."""
        return gravest([one.action for one in self.singles])

    @property
    def ends_service(self) -> bool:
        """Whether the node may start no further job. Severity alone never says that."""
        return self.action is not None and self.action.ends_service

    @property
    def urgency(self) -> tuple[int, tuple[int, ...]]:
        """What ranks it: what must be done, then severity and number."""
        # A symptom without an action needs something to be done, and nothing says that the node has a fault.
        return (self.action or Action.RESTART).rank, self.counts


def step_finding(runbook: Runbook, result: StepResult) -> StepFinding:
    """What this step found: a symptom, or an expectation that it missed."""
    graded = [one.severity for one in single_findings(result.details)]
    counts = tuple(graded.count(severity) for severity in GRAVEST_FIRST)
    named = next((severity for severity in GRAVEST_FIRST if severity in graded), None)
    if named is None:
        named = runbook.head.severity
        counts = tuple(int(severity is named) for severity in GRAVEST_FIRST)
    undo, by_hand = (_texts(result.details.get(name)) for name in ("undo", "by_hand"))
    said = " ".join((result.reason or result.status.value).split())
    singles = with_action(result)
    if result.status is StepStatus.FAILED and gravest([one.action for one in singles]) is Action.KEEP:
        # The entry's bound was missed, which the probe's notes are not about.
        singles = ()
    return StepFinding(result.id, named, said, counts, tuple(shell_lines(undo, by_hand)), singles)


def with_action(result: StepResult) -> tuple[SingleFinding, ...]:
    """The findings of a result that have an action, the gravest first."""
    found = [one for one in single_findings(result.details) if one.action is not None]
    return tuple(sorted(found, key=lambda one: one.rank, reverse=True))


def _texts(value: JsonValue) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
