"""The digest that a step's numbers have while its entry and its probe are as they are now."""

from runner.catalogue import PROBES
from runner.entry.model import Runbook, Step, step_digest


def current_digest(runbook: Runbook, step: Step) -> str:
    """What a result's digest must be for its numbers not to be stale."""
    methods = tuple((name, PROBES[name].method_version) for name in step.probes if name in PROBES)
    return step_digest(runbook, step, methods)
