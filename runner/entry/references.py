"""Checks that the steps and metrics which a runbook refers to exist. Pure."""

import re
from collections.abc import Iterator, Mapping

from runner.base.errors import Fault, InputError
from runner.base.units import known_units, parse_bytes, to_stored
from runner.base.words import nearest
from runner.entry.attributes import is_id
from runner.entry.model import Condition, Phase, ProofItem, Runbook, Scalar, Step
from runner.vocabulary import METRICS, PROBES

Place = tuple[str | int, ...]

# Signatures must mean the same in Python and in browsers; these constructs exist in only one of the two.
_PYTHON_ONLY = re.compile(
    r"\(\?P[<=>]|\(\?[aiLmsux-]+[:)]|\\[AZ]|\(\?\(|\(\?>|[*+?}]\+|\(\?<[=!]"
    r"|\\[1-9uUN]|\{,|\[\^?\]|\[[^\]]*\\S|\\x[89a-fA-F]"
)
# An unbounded repeat of a group that contains an unbounded repeat can take exponential time.
_NESTED_REPEAT = re.compile(r"\((?:[^()\\]|\\.)*[*+](?:[^()\\]|\\.)*\)[*+]")


def reference_faults(runbook: Runbook, lines: Mapping[Place, int]) -> Iterator[Fault]:
    """Every broken reference of a runbook, with its line."""
    for place, message in _head_faults(runbook):
        line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), 1)
        yield Fault(runbook.path, line, message)
    yield from _needs_faults(runbook)


def _head_faults(runbook: Runbook) -> Iterator[tuple[Place, str]]:
    head = runbook.head
    steps = [step.id for step in runbook.steps]
    if head.headline is not None and head.headline not in steps:
        yield ("headline",), f"headline: unknown step {head.headline!r}{nearest(head.headline, steps)}"
    for index, name in enumerate(head.formerly):
        if not is_id(name):
            yield (
                ("formerly", index),
                f"{name!r} is not a valid id; use lower-case letters, digits and hyphens",
            )
    for index, item in enumerate(head.proof):
        yield from _proof_faults(runbook, item, ("proof", index))
    seen: set[str] = set()
    for index, expectation in enumerate(head.expectations):
        yield from _condition_faults(runbook, expectation, ("expectations", index))
        yield from _id_faults(expectation.id, seen, ("expectations", index, "id"))
    for index, claim in enumerate(head.claims):
        yield from _id_faults(claim.id, seen, ("claims", index, "id"))
        for name in ("confirmed_if", "contradicted_if"):
            condition = getattr(claim, name)
            if condition is not None:
                yield from _condition_faults(runbook, condition, ("claims", index, name))
    for index, signature in enumerate(head.signatures):
        message = _pattern_fault(signature.pattern)
        if message:
            yield ("signatures", index, "pattern"), message
        elif signature.example and not _matches(signature.pattern, signature.example):
            yield ("signatures", index, "example"), "the example does not match its own pattern"


def _proof_faults(runbook: Runbook, item: ProofItem, place: Place) -> Iterator[tuple[Place, str]]:
    verify = [step.id for step in runbook.steps if step.phase is Phase.VERIFY]
    if item.step not in verify:
        yield place, f"proof: {item.step!r} is not a step of Verify{nearest(item.step, verify)}"
    elif item.measurement is not None:
        message = metric_fault(runbook, item.metric)
        if message:
            yield place, message
    elif "." in item.metric or item.at:
        yield (
            place,
            f"{item.metric!r} is not a measurement; write <step id>.<measurement>, or only the step id",
        )
    yield from _size_faults(item.at, (*place, "at"))


def _id_faults(name: str, seen: set[str], place: Place) -> Iterator[tuple[Place, str]]:
    if not is_id(name):
        yield place, f"{name!r} is not a valid id; use lower-case letters, digits and hyphens"
    if name in seen:
        yield place, f"duplicate id {name!r} in expectations and claims"
    seen.add(name)


def _condition_faults(runbook: Runbook, condition: Condition, place: Place) -> Iterator[tuple[Place, str]]:
    units = set()
    for field, metric in (("metric", condition.metric), ("over", condition.over)):
        if metric is None:
            continue
        message = metric_fault(runbook, metric)
        if message:
            yield (*place, field), message
        else:
            units.add(METRICS[metric.partition(".")[2]].unit)
    if condition.unit is not None and condition.unit not in known_units():
        yield (*place, "unit"), f"unknown unit {condition.unit!r}{nearest(condition.unit, known_units())}"
    elif len(units) == 1:
        stored = "1" if condition.over else next(iter(units))
        given = to_stored(1.0, condition.unit)[1] if condition.unit else stored
        if given != stored:
            yield (
                (*place, "unit"),
                f"{condition.unit} is not a unit of {condition.metric}, which is stored in {stored}",
            )
    elif len(units) > 1:
        yield (*place, "over"), f"{condition.metric} and {condition.over} have different units"
    for field in ("at", "over_at"):
        yield from _size_faults(getattr(condition, field) or {}, (*place, field))


def _size_faults(labels: Mapping[str, Scalar], place: Place) -> Iterator[tuple[Place, str]]:
    size = labels.get("bytes")
    if isinstance(size, str):
        try:
            parse_bytes(size)
        except InputError as error:
            yield (*place, "bytes"), str(error)


def metric_fault(runbook: Runbook, metric: str) -> str | None:
    """What is wrong with `<step id>.<measurement>` in this entry, or None."""
    step_id, dot, name = metric.partition(".")
    if not dot:
        return f"{metric!r} is not a metric; write <step id>.<measurement>"
    step = runbook.step(step_id)
    if step is None:
        return f"{metric!r}: unknown step {step_id!r}{nearest(step_id, [one.id for one in runbook.steps])}"
    if name not in METRICS:
        return f"unknown measurement {name!r}{nearest(name, METRICS)}"
    emitted = _emitted(step)
    if emitted is not None and name not in emitted:
        return f"the step {step_id!r} does not measure {name!r}{nearest(name, emitted)}"
    return None


def _emitted(step: Step) -> frozenset[str] | None:
    """The metrics that the probes of a step may report; None if it starts no known probe."""
    infos = [PROBES[name] for name in step.probes if name in PROBES]
    return frozenset(name for info in infos for name in info.emits) if infos else None


def _needs_faults(runbook: Runbook) -> Iterator[Fault]:
    earlier: list[str] = []
    for step in runbook.steps:
        for needed in step.needs:
            if needed not in earlier:
                later = runbook.step(needed) is not None
                message = (
                    f"needs={needed}: that step does not run before this one"
                    if later
                    else f"needs={needed}: unknown step{nearest(needed, earlier)}"
                )
                yield Fault(runbook.path, step.line, message)
        earlier.append(step.id)


def _matches(pattern: str, line: str) -> bool:
    """As the matcher looks at a log: byte by byte."""
    return re.search(pattern.encode(), line.encode(), re.DOTALL) is not None


def _pattern_fault(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"the pattern is not a valid regular expression: {error}"
    if not pattern.isascii():
        return "the pattern is not ASCII; logs are matched byte by byte, so write . for any other character"
    if _PYTHON_ONLY.search(pattern):
        return (
            "the pattern uses syntax that differs between browsers and Python (flags, look-behind, back references, "
            "named or atomic groups, {,n}, [] at the start of a set, \\S in a set, \\u, characters above \\x7f)"
        )
    if _NESTED_REPEAT.search(pattern):
        return (
            "the pattern repeats a group that contains a repeat; matching some lines takes exponential time"
        )
    return None
