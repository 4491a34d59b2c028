"""What `measured(…)` and `measured_table(…)` mean: references checked, numbers looked up. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from runner.base.words import bracketed, nearest
from runner.entry.digest import is_current
from runner.entry.model import Condition, Runbook, Scalar
from runner.entry.references import metric_fault
from runner.hardware.boards import BOARDS
from runner.pages.calls import CallError
from runner.pages.evidence import HEADLINE_CLASSES, SiteEvidence
from runner.pages.numbers import across_nodes, number, show_labels
from runner.pages.tables import Reading, Table
from runner.record.evaluation import differing, fitting

_GPU_CLASS = re.compile(rf"\d+x({'|'.join(one.kind for one in BOARDS)})(-mig)?")
_CPU_CLASS = re.compile(r"cpu-[a-z0-9]+(-[a-z0-9_]+)+-\d+c")


@dataclass(frozen=True)
class Known:
    """What a call may refer to.

    Attributes:
        runbooks: entries by id.
        evidence: their records.
        broken: ids of entries whose files have faults of their own, so that nothing can be said of their steps.
        strict: hold labels against the records too. A page does not: a folder with fewer records is no mistake.
    """

    runbooks: Mapping[str, Runbook]
    evidence: SiteEvidence
    broken: frozenset[str] = field(default=frozenset())
    strict: bool = False

    @cached_property
    def labels(self) -> Mapping[tuple[str, str, str], set[str]]:
        """Labels of (entry, step, measurement), from the entries' bounds and from results that are not stale."""
        carried: dict[tuple[str, str, str], set[str]] = {}
        for (_, entry, step_id, _), nodes in self.evidence.finished.items():
            runbook = self.runbooks.get(entry)
            step = runbook.step(step_id) if runbook else None
            if runbook is None or step is None:
                continue
            for _, result in nodes:
                for one in result.measurements if is_current(result.digest, runbook, step) else ():
                    carried.setdefault((entry, step_id, one.name), set()).update(one.labels)
        for (entry, step_id, name), labels in carried.items():
            for condition in _conditions(self.runbooks[entry]):
                if condition.metric == f"{step_id}.{name}":
                    labels.update(condition.at)
        return carried


def _conditions(runbook: Runbook) -> Iterator[Condition]:
    yield from runbook.head.expectations
    for claim in runbook.head.claims:
        yield from (one for one in (claim.confirmed_if, claim.contradicted_if) if one is not None)


def prose_reading(
    known: Known, metric: str, at: Mapping[str, Scalar] | None = None, on: str | None = None
) -> tuple[Reading, ...]:
    """One number of prose, on one class or on every class that has it.

    Args:
        known: what may be referred to.
        metric: `<entry>/<step>.<measurement>`.
        at: labels that tell the measurement from others; sizes may be written `8GiB`.
        on: the machine class; every class with a number when left out.

    Raises:
        CallError: it refers to nothing that exists.
    """
    reference = _reference(known, metric, at)
    if on is not None:
        _check_class(known, on)
        return (_reading(known, reference, on),)
    found = [_reading(known, reference, name) for name in known.evidence.classes]
    return tuple(one for one in found if one.number or one.doubt)


def measured_table(known: Known, rows: Sequence[Sequence[object]]) -> Table:
    """A row a measurement, a column a machine class that has one of them; the headline classes always.

    Args:
        known: what may be referred to.
        rows: `(row label, "<entry>/<step>.<measurement>", {labels})`; the labels may be left out.

    Raises:
        CallError: a row is not of that form, or refers to nothing that exists.
    """
    form = '[("row label", "entry/step.metric", {labels}), …]'
    if not isinstance(rows, list | tuple) or not rows:
        raise CallError(f"measured_table needs rows: {form}")
    lines = []
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) not in {2, 3} or not isinstance(row[0], str):
            raise CallError(f"{row!r:.60} is not a row of a table; write {form}")
        reference = _reference(known, row[1], row[2] if len(row) > 2 else None)  # noqa: PLR2004 - labels are third
        lines.append((row[0], {name: _reading(known, reference, name) for name in known.evidence.classes}))
    classes = [
        name
        for name in known.evidence.classes
        if name in HEADLINE_CLASSES or any(found[name].number or found[name].doubt for _, found in lines)
    ]
    return Table(
        caption="Measured",
        head=("", *classes),
        rows=tuple((label, *(found[name] for name in classes)) for label, found in lines),
    )


@dataclass(frozen=True)
class _Reference:
    runbook: Runbook | None
    step: str
    name: str
    at: Mapping[str, Scalar]


def _reference(known: Known, metric: object, at: object) -> _Reference:
    if not isinstance(metric, str) or not re.fullmatch(r"[^/]+/[^/.]+\.[^/.]+", metric):
        raise CallError(f'{metric!r:.80} is not a measurement; write "<entry>/<step>.<measurement>"')
    entry, _, rest = metric.partition("/")
    step, _, name = rest.partition(".")
    labels = {} if at is None else at
    if not isinstance(labels, dict) or not all(
        isinstance(key, str) and isinstance(value, str | int | float) for key, value in labels.items()
    ):
        raise CallError(f'{at!r:.80} is not a set of labels; write {{"op": "all_reduce", "bytes": "8GiB"}}')
    runbook = known.runbooks.get(entry)
    if runbook is None:
        if entry not in known.broken:
            raise CallError(f"{metric!r}: unknown entry {entry!r}{nearest(entry, known.runbooks)}")
    else:
        fault = metric_fault(runbook, rest)
        if fault:
            raise CallError(f"{entry}: {fault}")
    reference = _Reference(runbook, step, name, labels)
    if known.strict:
        _check_labels(known, entry, reference)
    return reference


def _check_labels(known: Known, entry: str, reference: _Reference) -> None:
    """Refuse labels that the step's own results do not carry; without results, labels cannot be checked."""
    carried = known.labels.get((entry, reference.step, reference.name), set())
    for label in reference.at:
        if carried and label not in carried:
            raise CallError(f"{reference.name} has no label {label!r}{nearest(label, carried)}")


def _check_class(known: Known, name: object) -> None:
    classes = known.evidence.classes
    if not isinstance(name, str) or not (
        name in classes or _GPU_CLASS.fullmatch(name) or _CPU_CLASS.fullmatch(name)
    ):
        boards = [f"8x{board.kind}" for board in BOARDS]
        raise CallError(f"unknown machine class {name!r:.60}{nearest(str(name), {*classes, *boards})}")


def _reading(known: Known, reference: _Reference, machine_class: str) -> Reading:
    runbook = reference.runbook
    nodes = known.evidence.nodes(machine_class, runbook.id, reference.step) if runbook else ()
    step = runbook.step(reference.step) if runbook else None
    if not nodes or runbook is None or step is None:
        return Reading(machine_class)
    record, result = nodes[-1]
    found = fitting(result.measurements, reference.name, reference.at)
    if not found:
        return Reading(machine_class)
    if len(found) > 1:
        doubt = (
            f"{reference.name} was measured at several {differing(found)} on {machine_class}; name one in at="
        )
        return Reading(machine_class, doubt=doubt)
    machine, shown = record.machine, found[0]
    versions = (("driver", machine.driver), ("torch", machine.torch), ("NCCL", machine.nccl))
    how = (
        f"{shown.name}{bracketed(show_labels(shown.labels))}",
        f"preset {record.options.preset}",
        *(f"{name} {version}" for name, version in versions if version),
    )
    return Reading(
        machine_class=machine_class,
        number=number(shown, across_nodes(nodes, shown)),
        when=result.started_at or record.started_at,
        stale=not is_current(result.digest, runbook, step),
        how="; ".join(how),
        record=record.run_id,
    )
