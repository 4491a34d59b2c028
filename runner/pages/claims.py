"""The claims of an entry as its page shows them: judged afresh for each class, and stale ones marked. Pure."""

from dataclasses import dataclass

from runner.base.units import format_value
from runner.base.words import bracketed
from runner.entry.model import Claim, Runbook
from runner.pages.evidence import SiteEvidence
from runner.pages.numbers import show_labels, show_value
from runner.pages.view import has_changed
from runner.record.evaluation import Evaluated
from runner.record.judge import judge_claims
from runner.record.model import ClaimState, Record
from runner.vocabulary import label_of


@dataclass(frozen=True)
class ClaimView:
    """A claim and its state by the run that represents each class.

    Attributes:
        states: of each class its name, the state, the number that decided it, the run, and whether a step that
            the claim names has changed since that run.
    """

    claim: Claim
    states: tuple[tuple[str, ClaimState, str, Record | None, bool], ...]


def claim_views(runbook: Runbook, evidence: SiteEvidence) -> tuple[ClaimView, ...]:
    """Every claim, decided afresh per class."""
    judged = {
        name: judge_claims(runbook, run.steps, run.machine)
        for name in evidence.classes
        if (run := evidence.run(name, runbook.id))
    }
    views = []
    for claim in runbook.head.claims:
        states = []
        for name in evidence.classes:
            state, found = judged.get(name, {}).get(claim.id, (ClaimState.UNDECIDED, None))
            shown = _claim_shown(claim, state, found) if found and found.value is not None else ""
            run = evidence.run(name, runbook.id)
            states.append((name, state, shown, run, run is not None and _is_stale(runbook, claim, run)))
        views.append(ClaimView(claim, tuple(states)))
    return tuple(views)


def _is_stale(runbook: Runbook, claim: Claim, run: Record) -> bool:
    bounds = [one for one in (claim.confirmed_if, claim.contradicted_if) if one is not None]
    named = {metric.partition(".")[0] for one in bounds for metric in (one.metric, one.over or one.metric)}
    return any(
        has_changed(runbook, result)
        for result in run.steps
        if result.id in named and runbook.step(result.id) is not None
    )


def _claim_shown(claim: Claim, state: ClaimState, found: Evaluated) -> str:
    """`Leftover ratio (phase decode): 0.996`; a ratio of two is a factor: `… ÷ …: 1.05 ×`."""
    bounds = [one for one in (claim.confirmed_if, claim.contradicted_if) if one is not None]
    if state is ClaimState.CONTRADICTED:
        bounds.reverse()
    bound, value = bounds[0], found.value or 0.0
    name = bound.metric.partition(".")[2]
    if bound.over is None:
        return f"{label_of(name)}{bracketed(show_labels(bound.at))}: {show_value(name, value, found.unit)}"
    other = bound.over.partition(".")[2]
    over_at = bound.at if bound.over_at is None else bound.over_at
    below = f"{'the same' if other == name else label_of(other)}{bracketed(show_labels(over_at))}"
    return f"{label_of(name)}{bracketed(show_labels(bound.at))} ÷ {below}: {format_value(value, '1')} ×"
