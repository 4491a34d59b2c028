"""A verdict on a part of this node as the findings of a probe: status, reason, document."""

from collections.abc import Mapping, Sequence

from runner.base.errors import RunbookError
from runner.base.words import and_more
from runner.entry.model import Severity
from runner.kit.options import LARGEST_INTEGER
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.node.findings import Action, NodeFinding, NodeVerdict, first_of
from runner.record.looked import FINDS

_SEVERITY = {
    Action.KEEP: Severity.LOW,
    Action.RESTART: Severity.MEDIUM,
    Action.RESET: Severity.HIGH,
    Action.DRAIN: Severity.HIGH,
    Action.REPLACE: Severity.CRITICAL,
}
# Chosen: more than a node with faults everywhere has. Whoever writes a log decides how many it seems to have.
_MOST_SHOWN, _MOST_LISTED = 100, 1000
# The number of findings that need something to be done; every such probe reports it.
FAULTS = "node_faults"


def node_findings(
    judged: NodeVerdict, requested: Mapping[str, object], effective: Mapping[str, object], **labels: str
) -> Findings:
    """The findings of a probe that judged a part of this node.

    A fault is the symptom, whatever else could not be read. Without one, a group of which something could not be read
    that matters is unknown, not fine.

    Args:
        judged: the verdict.
        requested: what was asked for.
        effective: what was judged: live or captured.
        labels: of the number of faults: which group, from which source.

    Raises:
        NotApplicableError: the group does not apply to this node.
        RunbookError: nothing was found, and something that matters could not be read.
    """
    faults, notes = judged.faults, judged.notes
    unknown = [one for one in judged.not_read if one.matters]
    _say_first([f"{one.action}: {one}" for one in (*faults, *notes)[:_MOST_SHOWN]], len(faults) + len(notes))
    _say_first([f"not read: {one}" for one in judged.not_read[:_MOST_SHOWN]], len(judged.not_read))
    if not faults:
        if unknown:
            raise RunbookError(f"unknown: {unknown[0]}{and_more(len(unknown))}")
        if judged.not_applicable is not None:
            raise NotApplicableError(judged.not_applicable)
        if not notes:
            say(f"no findings: {judged.judged}")
    return Findings(
        measurements=[
            single(FAULTS, len(faults), **labels),
            *(single(one.metric, one.value, **dict(one.labels)) for one in judged.numbers),
        ],
        status="symptom" if faults else "ok",
        reason=first_of(faults or notes) if faults or notes else None,
        requested=requested,
        effective=effective if judged.finds else {**effective, FINDS: False},
        details={
            "judged": judged.judged,
            "findings": _shown((faults + notes)[:_MOST_LISTED]),
            "findings_in_all": len(faults) + len(notes),
            "not_read": [
                {"what": one.what, "why": one.why, "matters": one.matters}
                for one in judged.not_read[:_MOST_LISTED]
            ],
            "facts": _recordable(dict(judged.facts)),
            "settings": dict(judged.settings),
        },
    )


def _recordable(value: object) -> object:
    """The same with numbers that no record holds as text; a file may hold any number, such as a limit of 2^64 - 2."""
    if isinstance(value, Mapping):
        return {key: _recordable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_recordable(one) for one in value]
    return str(value) if isinstance(value, int) and abs(value) > LARGEST_INTEGER else value


def _say_first(lines: Sequence[str], number: int) -> None:
    """Print the first lines, and how many are left out; the gravest come first."""
    for one in lines:
        say(one)
    if number > len(lines):
        say(f"… and {number - len(lines)} more")


def _shown(findings: Sequence[NodeFinding]) -> list[dict[str, object]]:
    return [
        {
            "kind": one.kind,
            "action": one.action.value,
            "severity": _SEVERITY[one.action].value,
            "where": one.where,
            "found": one.found,
            "next": one.next,
            "source": one.source,
            "evidence": list(one.evidence),
            "vendor": one.vendor,
        }
        for one in findings
    ]
