"""Checks a record against the printed output of its probes: the last line of a probe's output is its document."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from runner.base.plain import plain
from runner.record.gate.words import AGAIN
from runner.record.model import Measurement, StepResult, StepStatus
from runner.record.redaction.placeholder import PLACEHOLDER

_KEPT = (
    "probe", "method_version", "requested", "effective", "fallback_reason", "fallback_asked", "details", "simulated",
)  # fmt: skip
_ELSEWHERE = frozenset("|>&;")
_LEFT_OUT = re.compile(r"\d+ bytes of details, more than a record holds")


def said_by(step: StepResult) -> Mapping[str, Any] | None:
    """The document that the step's last probe printed; None if its output does not end with one.

    The output is ignored if the block redirects its last probe's output or document.
    """
    _, found, last_call = step.command.rpartition("-m runner.probes.")
    if not found or _ELSEWHERE & {*last_call} or "RUNBOOK_RESULT" in step.command:
        return None
    if step.probe is None and step.status.broken:
        # Its document was rejected, or written before the step was terminated.
        return None
    last = step.stdout_tail.rstrip().rpartition("\n")[2]
    if not last.startswith("{"):
        return None
    try:
        found = from_json(last)
    except ValueError:
        # Its beginning was cut off, or redaction made it invalid JSON.
        return None
    return found if isinstance(found, dict) and {"probe", "measurements"} <= found.keys() else None


def said_problems(step: StepResult, said: Mapping[str, Any]) -> Iterator[str]:
    """Differences between the record and the probe's printed document."""
    kept: dict[str, Any] = {name: getattr(step, name) for name in _KEPT}
    kept["measurements"] = [_told(one) for one in step.measurements]
    if _LEFT_OUT.fullmatch(str(step.details.get("left_out"))):
        kept["details"] = said.get("details")
    if step.status is StepStatus.PASSED or (step.status is StepStatus.SYMPTOM and said.get("reason")):
        said = {**said, "reason": said.get("reason")}
        kept["reason"] = step.reason
    # A document of an earlier version has no such mark.
    said = {"simulated": False, **said}
    differing = next((name for name in kept if name in said and not _alike(said[name], kept[name])), None)
    if differing is not None:
        yield f"printed a document with a different {differing}; {AGAIN}"


def _told(measurement: Measurement) -> dict[str, Any]:
    # As in JSON; several times faster than the model's own dump.
    return {**vars(measurement), "samples": list(measurement.samples)}


def _alike(one: Any, other: Any) -> bool:
    """Whether a printed and a stored JSON value are equal but for text that is redacted in only one of them."""
    if one == other and isinstance(one, bool) == isinstance(other, bool):
        return True
    if isinstance(one, str) and isinstance(other, str):
        if PLACEHOLDER.search(one) or PLACEHOLDER.search(other):
            return True
        # A record keeps no invisible characters; the printed document escapes them.
        return plain(one) == other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return isinstance(other, str) and PLACEHOLDER.search(other) is not None
