"""What checks cost: how long their steps took, and what guards add to a training step. From records. Pure."""

import re
from collections.abc import Iterator, Sequence

from runner.base.units import format_duration
from runner.base.words import nearest
from runner.entry.digest import is_current
from runner.entry.model import Runbook, Step
from runner.pages.calls import CallError
from runner.pages.evidence import HEADLINE_CLASSES
from runner.pages.numbers import Number
from runner.pages.readings import Known, measured_table
from runner.pages.tables import Reading, Table

_GUARD_COST = "guard_cost"
# How an entry measures the cost of a guard.
_COST = re.compile(r"runner\.probes\.step_drill\b(?=[^\n]*--cost\b)[^\n]*--topic[= ](?P<topic>[\w-]+)")


def step_times(known: Known, rows: Sequence[Sequence[object]]) -> Table:
    """How long steps took when they last finished: a row a step, a column a machine class that ran one of them.

    Args:
        known: what may be referred to.
        rows: `(row label, "<entry>/<step>")`.

    Raises:
        CallError: a row is not of that form, or refers to nothing that exists.
    """
    form = '[("row label", "entry/step"), …]'
    if not isinstance(rows, list | tuple) or not rows:
        raise CallError(f"step_times needs rows: {form}")
    lines: list[tuple[str, dict[str, Reading]]] = []
    for row in rows:
        match row:
            case (str(label), str(place)):
                found = _step(known, place)
            case _:
                raise CallError(f"{row!r:.60} is not a row of a table; write {form}")
        lines.append((label, {name: _time(known, found, name) for name in known.evidence.classes}))
    classes = [
        name
        for name in known.evidence.classes
        if name in HEADLINE_CLASSES or any(found[name].number for _, found in lines)
    ]
    return Table(
        caption="Time of a check",
        head=("", *classes),
        rows=tuple((label, *(found[name] for name in classes)) for label, found in lines),
    )


def guard_costs(known: Known) -> Table:
    """What each guard adds to a training step: a row for each step that measures it (`step_drill --cost`)."""
    rows = [
        (f"{topic}, entry {runbook.head.number}", f"{runbook.id}/{step.id}.{_GUARD_COST}", {"guard": topic})
        for runbook in sorted(known.runbooks.values(), key=lambda one: one.head.number)
        for step, topic in _costed(runbook)
    ]
    if not rows:
        return Table(caption="Cost of a guard", head=("guard", "cost"), rows=(("none", "unmeasured"),))
    return measured_table(known, rows)


def _costed(runbook: Runbook) -> Iterator[tuple[Step, str]]:
    for step in runbook.steps:
        if found := _COST.search(step.command.replace("\\\n", " ")):
            yield step, found["topic"]


def _step(known: Known, place: str) -> tuple[Runbook, Step] | None:
    """The step of `<entry>/<step>`; None if its entry has faults of its own."""
    entry, _, step_id = place.partition("/")
    runbook = known.runbooks.get(entry)
    if runbook is None:
        if entry in known.broken:
            return None
        raise CallError(f"{place!r}: unknown entry {entry!r}{nearest(entry, known.runbooks)}")
    step = runbook.step(step_id)
    if step is None:
        ids = [one.id for one in runbook.steps]
        raise CallError(f"{place!r}: unknown step {step_id!r}{nearest(step_id, ids)}")
    return runbook, step


def _time(known: Known, found: tuple[Runbook, Step] | None, machine_class: str) -> Reading:
    if found is None:
        return Reading(machine_class)
    runbook, step = found
    ran = known.evidence.step(machine_class, runbook.id, step.id)
    if ran is None or ran[1].duration_s is None:
        return Reading(machine_class)
    record, result = ran
    return Reading(
        machine_class=machine_class,
        number=_seconds(result.duration_s or 0.0),
        when=result.started_at or record.started_at,
        stale=not is_current(result.digest, runbook, step),
        how=f"time of {runbook.id}/{step.id}; preset {record.options.preset}",
        record=record.run_id,
    )


def _seconds(value: float) -> Number:
    return Number(
        name="duration_s",
        label="Time of the step",
        labels="",
        value=value,
        unit="s",
        shown=format_duration(value),
        spread="",
        taken="one run",
        meaning="Seconds from the start to the end of the step",
        better=None,
    )
