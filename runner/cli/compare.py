"""`runbook compare`: two records or two machine classes, number by number."""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from runner.base.bounds import RECORD_BYTES
from runner.base.errors import InputError
from runner.base.placed import read_placed
from runner.base.plain import json_text, one_line
from runner.base.stats import Interval
from runner.base.units import format_value
from runner.base.words import bracketed, counted, label_pairs, nearest
from runner.cli.console import console_on
from runner.history.compare import ComparedNumber, RunComparison, compare_classes, compare_records
from runner.record.model import Record
from runner.record.reading import parse_record
from runner.record.store import Store, latest
from runner.vocabulary import label_of

_NOTE = (
    "The interval covers only the spread of samples within the two runs; runs on the same node differ by more. "
    "`runbook trend` compares runs with a window of earlier runs."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("first", metavar="A", help="a record (file or run id) or a machine class")
    parser.add_argument("second", metavar="B", help="the same, compared with A")
    parser.add_argument("--all", action="store_true", help="also show numbers that are the same in both")
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison; always returns 0.

    Raises:
        InputError: one of the two is neither a record nor a class, or they are of different kinds or entries.
    """
    if arguments.all and arguments.json:
        raise InputError("--all cannot be used with --json, which has every number; omit --all")
    store = Store(arguments.data)
    found = _compare(store, arguments.first, arguments.second)
    if arguments.json:
        print(json_text(dataclasses.asdict(found)))
        return 0
    shown = [row for row in found.rows if arguments.all or row.verdict != "same"]
    table = Table()
    for heading in ("entry, step", "number", f"A: {found.first}", f"B: {found.second}", "B ÷ A", ""):
        table.add_column(heading)
    for row in shown:
        table.add_row(*(escape(one_line(cell)) for cell in _cells(row)))
    console = console_on(sys.stdout)
    if shown:
        console.print(table)
    for line in (*_counts(found), f"other differences: {', '.join(found.differences) or 'none recorded'}"):
        # Not wrapped: a continuation line could be mistaken for a statement.
        console.print(escape(one_line(line)), highlight=False, soft_wrap=True)
    console.print(_NOTE, highlight=False)
    return 0


def _counts(found: RunComparison) -> Iterator[str]:
    both = [row for row in found.rows if row.in_both]
    same = sum(row.verdict == "same" for row in both)
    only_a = sum(row.second is None for row in found.rows)
    yield (
        f"{counted(len(both), 'number')} in both, {same} of them equal; {only_a} only in A, "
        f"{len(found.rows) - len(both) - only_a} only in B"
    )
    for name, steps in (("A", found.only_first), ("B", found.only_second)):
        if steps:
            yield f"steps only in {name}: {', '.join(steps)}"


def _cells(row: ComparedNumber) -> tuple[str, ...]:
    values = [
        "not measured" if value is None else format_value(value, row.unit)
        for value in (row.first, row.second)
    ]
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}{_interval(row.interval)}"
    return (
        f"{row.runbook} {row.step}",
        f"{label_of(row.metric)}{bracketed(label_pairs(row.labels))}",
        *values,
        ratio,
        row.verdict,
    )


def _interval(interval: Interval | None) -> str:
    return f" [{interval.low:.3g} … {interval.high:.3g}]" if interval else ""


def _compare(store: Store, first: str, second: str) -> RunComparison:
    paths = store.files()
    classes = {path.parent.parent.name for path in paths}
    if first in classes and second in classes:
        return compare_classes(
            latest([*store.records(machine_class=first), *store.records(machine_class=second)]), first, second
        )
    if {first, second} & classes:
        other = second if first in classes else first
        raise InputError(
            f"{other!r} is not a machine class with records{nearest(other, classes)}; name two classes or two records"
        )
    one, other_record = _record(store, paths, first), _record(store, paths, second)
    if one.runbook.id != other_record.runbook.id:
        raise InputError(
            f"{first} is a run of {one.runbook.id}, {second} of {other_record.runbook.id}; name two runs of one entry"
        )
    return compare_records(one, other_record)


def _record(store: Store, paths: tuple[Path, ...], name: str) -> Record:
    if Path(name).is_file():
        # A path that the caller typed may be a link.
        return parse_record(read_placed(Path(name), RECORD_BYTES), name)
    # A file's name ends in its run id, so only the matching files need to be read.
    found = [path for path in paths if path.stem == name or path.stem.partition("-")[2] == name]
    if not found:
        ids = difflib.get_close_matches(name, [path.stem.partition("-")[2] for path in paths], n=1)
        raise InputError(
            f"{name!r} is not a file, a run id in {store.root} or a machine class with records{nearest(name, ids)}; "
            "a run id ends the file name of its record"
        )
    return store.load(found[0])
