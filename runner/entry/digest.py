"""The digest of a step's numbers for the current entry and probes."""

from runner.entry.model import Runbook, Step, step_digest
from runner.vocabulary import PROBES


def current_digest(runbook: Runbook, step: Step) -> str:
    """The digest that a result must have to be current; any other digest means that its numbers are stale."""
    methods = tuple((name, PROBES[name].method_version) for name in step.probes if name in PROBES)
    return step_digest(runbook, step, methods)
