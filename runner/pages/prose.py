"""Numbers in prose: `{{ measured(…) }}`, `{{ measured_table(…) }}` and computed tables, in entries and guides alike.

A call stands in running text, never in code, and its arguments are plain values. Whatever else has braces stays as it
was written. What a call asks for and does not exist is a fault with its file and line, here and in `runbook check`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from pathlib import Path
from types import MappingProxyType

from markupsafe import Markup

from runner.base.errors import Fault, InputError, RunbookFaultsError
from runner.pages.calls import Call, CallError, find_calls
from runner.pages.check_costs import guard_costs, step_times
from runner.pages.computed import COMPUTED
from runner.pages.readings import Known, measured_table, prose_reading
from runner.pages.tables import Reading, Table
from runner.pages.text import cell, escaped

Shown = tuple[Reading, ...] | Table

MEASURED: Mapping[str, Callable[..., Shown]] = MappingProxyType(
    {
        "measured": prose_reading,
        "measured_table": measured_table,
        "step_times": step_times,
        "guard_costs": guard_costs,
    }
)
NAMES = frozenset({*COMPUTED, *MEASURED})


def expand(markdown: str, path: Path, line: int, known: Known, show: Callable[[Shown], str]) -> str:
    """The Markdown with every call replaced by what it asks for.

    Args:
        markdown: running text of an entry or guide.
        path: its file, for messages.
        line: the line of the file on which it begins.
        known: entries and records.
        show: `as_html` (with its prefix) or `as_markdown`.

    Raises:
        RunbookFaultsError: every call that cannot be answered, with file and line.
    """
    parts: list[str] = []
    faults: list[Fault] = []
    place = 0
    for call in find_calls(markdown, NAMES):
        try:
            parts += [markdown[place : call.start], show(_answer(call, known))]
        except (CallError, InputError) as error:
            faults.append(Fault(path, line + call.line - 1, str(error)))
        place = call.end
    if faults:
        raise RunbookFaultsError(tuple(faults))
    return "".join(parts) + markdown[place:] if parts else markdown


def prose_faults(markdown: str, path: Path, line: int, known: Known) -> Iterator[Fault]:
    """What is wrong with the calls of a text; also calls that records answer with more than one number."""
    for call in find_calls(markdown, NAMES):
        try:
            shown = _answer(call, known)
        except (CallError, InputError) as error:
            yield Fault(path, line + call.line - 1, str(error))
            continue
        for reading in _readings(shown):
            if reading.doubt:
                yield Fault(path, line + call.line - 1, reading.doubt)


def _readings(shown: Shown) -> Iterator[Reading]:
    cells = (one for row in shown.rows for one in row) if isinstance(shown, Table) else iter(shown)
    yield from (one for one in cells if isinstance(one, Reading))


def _answer(call: Call, known: Known) -> Shown:
    if call.problem:
        raise CallError(call.problem)
    function = COMPUTED.get(call.name) or MEASURED[call.name]
    given = call.arguments if call.name in COMPUTED else (known, *call.arguments)
    try:
        bound = inspect.signature(function).bind(*given, **call.named)
    except TypeError as error:
        raise CallError(f"{call.name}: {error}") from error
    shown: Shown = function(*bound.args, **bound.kwargs)
    if isinstance(shown, Table) and not call.alone:
        raise CallError(f"{call.name} makes a table: give it a paragraph of its own, at the left margin")
    return shown


def as_html(shown: Shown, prefix: str) -> str:
    """For a page of the site: raw HTML on one line, with class and date next to every number.

    Args:
        shown: the answer to a call.
        prefix: from the page to the site's root: `../`.
    """
    if not isinstance(shown, Table):
        if not shown:
            return Markup('<span class="rb-measured">unmeasured <small>(on every class)</small></span>')
        return Markup("; ").join(_inline(one, prefix, name_class=True) for one in shown)
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(cell(name)) for name in shown.head)
    rows = Markup("").join(_row(row, prefix) for row in shown.rows)
    return Markup(
        '<div class="rb-scroll" role="region" aria-label="{}" tabindex="0"><table class="rb-table">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(cell(shown.caption), head, rows)


def _row(row: tuple[str | Reading, ...], prefix: str) -> Markup:
    first, *others = row
    cells = [Markup('<th scope="row">{}</th>').format(cell(str(first)))]
    for one in others:
        inner = _inline(one, prefix, name_class=False) if isinstance(one, Reading) else cell(one)
        cells.append(Markup("<td>{}</td>").format(inner))
    return Markup("<tr>{}</tr>").format(Markup("").join(cells))


def _inline(reading: Reading, prefix: str, *, name_class: bool) -> Markup:
    beside = cell(", ".join(_beside(reading, name_class=name_class)))
    if reading.number is None:
        small = Markup(" <small>({})</small>").format(beside) if beside else ""
        return Markup('<span class="rb-measured">{}{}</span>').format(cell(_none(reading)), small)
    where = ", ".join(_beside(reading, name_class=True))
    why = "since then the step has changed" if reading.stale else ""
    title = "; ".join(filter(None, (where, why, reading.number.spread, reading.number.taken, reading.how)))
    return Markup(
        '<span class="rb-measured" title="{}"><b>{}</b> <small>(<a href="{}data/records/{}.json">{}</a>)</small></span>'
    ).format(cell(title), cell(reading.number.shown), prefix, reading.record, beside)


def as_markdown(shown: Shown) -> str:
    """For a plain Markdown file: the same words, a table as a table."""
    if not isinstance(shown, Table):
        return "; ".join(_plain(one, name_class=True) for one in shown) or "unmeasured (on every class)"
    rows = [
        [_plain(one, name_class=False) if isinstance(one, Reading) else escaped(one) for one in row]
        for row in shown.rows
    ]
    lines = [[escaped(name) for name in shown.head], ["---"] * len(shown.head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(reading: Reading, *, name_class: bool) -> str:
    beside = ", ".join(_beside(reading, name_class=name_class))
    words = reading.number.shown if reading.number else _none(reading)
    return escaped(f"{words} ({beside})" if beside else words)


def _beside(reading: Reading, *, name_class: bool) -> list[str]:
    """Class and date, which every number needs."""
    words = [reading.machine_class] if name_class else []
    if reading.when is not None:
        words.append(reading.when.astimezone(UTC).strftime("%Y-%m-%d"))
    return [*words, "stale"] if reading.stale else words


def _none(reading: Reading) -> str:
    return "no single number" if reading.doubt else "unmeasured"
