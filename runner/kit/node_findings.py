"""A verdict on a part of this node as the findings of a probe: status, reason, document."""

from collections.abc import Mapping, Sequence

from runner.base.errors import RunbookError
from runner.base.words import and_more
from runner.entry.model import Severity
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.node.findings import Action, NodeFinding, NodeVerdict, first_of

_SEVERITY = {
    Action.KEEP: Severity.LOW,
    Action.RESTART: Severity.MEDIUM,
    Action.RESET: Severity.HIGH,
    Action.DRAIN: Severity.HIGH,
    Action.REPLACE: Severity.CRITICAL,
}
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
    for one in (*faults, *notes):
        say(f"{one.action}: {one}")
    for blind in judged.not_read:
        say(f"not read: {blind}")
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
        effective=effective,
        details={
            "judged": judged.judged,
            "findings": _shown(faults + notes),
            "not_read": [
                {"what": one.what, "why": one.why, "matters": one.matters} for one in judged.not_read
            ],
            "facts": dict(judged.facts),
            "settings": dict(judged.settings),
        },
    )


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
