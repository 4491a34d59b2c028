"""The matrices that nvbandwidth prints.

`Running TEST.`, then for each matrix a description that ends with the unit, a line with the columns' names, one line a
row with the row's name before its cells, an empty line and, except in older versions, `SUM …`. A test that was waived
is one line, without its name in most versions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.record.tools.common import NO_VALUE, finite, refuse, without_prefix
from runner.record.tools.nvbandwidth import PARTS, Matrix, NvbandwidthRun, cells_of, is_bidirectional

# What a launcher may put before each line is bounded, so that a long line of another program costs no time.
_RUNNING = re.compile(
    r"^(?P<prefix>.{0,200}?)Running (?:benchmark )?(?P<test>[a-z]\w{0,98}_\w+)\.\s*$", re.MULTILINE
)
_VERSION = re.compile(r"^.{0,200}?\bnvbandwidth Version:", re.MULTILINE)
_DESCRIPTION = re.compile(r"(?:bandwidth|latency)\b.*\((?P<unit>GB/s|ns)\)\s*$")
_PART = re.compile(r"\b(?:(?:Read|Write)(?P<direction>[12])|Total)\b")
_WAIVED = re.compile(r"\s*Waived\b")
_ERROR = re.compile(r"\s*(?:ERROR|Error): (?P<why>.*)|\[(?P<code>CUDA_ERROR_\w+|NVML_ERROR_\w+)\]")


def is_nvbandwidth_table(text: str) -> bool:
    """Whether this is the output of nvbandwidth, whole or not."""
    return _VERSION.search(text) is not None or _RUNNING.search(text) is not None


@dataclass
class _Open:
    """A test that runs, and the matrix of it that is being read.

    Attributes:
        test: its name.
        unit: of the matrix; None before the first.
        part: of a bidirectional test between devices, which matrix of the test this is.
        width: columns of the matrix; 0 before the line with their names.
        gap: whether an empty line came after a row.
        summed: whether the matrix's sum came.
    """

    test: str
    unit: str | None = None
    part: str | None = None
    width: int = 0
    rows: list[tuple[float | None, ...]] = field(default_factory=list)
    gap: bool = False
    summed: bool = False


def read_nvbandwidth_table(text: str, name: str) -> NvbandwidthRun:
    """Read the output of nvbandwidth.

    Raises:
        DocumentError: it ran no test, a test ended with an error or did not end, or a cell is not a number.
    """
    first = _RUNNING.search(text)
    found: list[Matrix] = []
    waived: list[str] = []
    unnamed = 0
    now: _Open | None = None
    for line in without_prefix(text.splitlines(keepends=True), first["prefix"] if first else ""):
        running, error = _RUNNING.match(line), _ERROR.match(line)
        if error:
            test = f"{now.test} " if now else ""
            refuse(
                name, f"nvbandwidth {test}ended with an error: {(error['why'] or error['code'] or '')[:200]}"
            )
        if running:
            found += _closed(now, name)
            now = _Open(running["test"])
        elif _WAIVED.match(line) and now is not None and now.unit is None:
            waived.append(now.test)
            now = None
        elif _WAIVED.match(line):
            unnamed += 1
        elif now is not None:
            found += _next(now, line, name)
    found += _closed(now, name)
    if unnamed:
        waived.append(f"{unnamed} of its tests" if unnamed > 1 else "one of its tests")
    if first is None and not waived:
        refuse(name, "nvbandwidth ran no test")
    return NvbandwidthRun(tuple(found), tuple(waived))


def _next(now: _Open, line: str, name: str) -> Sequence[Matrix]:
    """Take a line of a running test; the matrix before it, if the line begins another."""
    description = _DESCRIPTION.search(line)
    if description:
        before = () if now.unit is None else _closed(now, name)
        now.unit, now.part, now.width, now.rows = description["unit"], _part(now.test, line), 0, []
        now.gap = now.summed = False
        return before
    if now.unit is None or now.summed:
        return ()
    cells = line.split()
    if not cells:
        now.gap = bool(now.rows)
    elif not now.width:
        now.width = len(cells)
    elif cells[0] == "SUM":
        now.summed = bool(now.rows)
    elif not (now.gap and _is_note(cells, now.width)):
        # A line that was cut may end with a part of a number.
        if len(cells) <= now.width or not line.endswith("\n"):
            refuse(name, f"nvbandwidth's {now.test} has an incomplete row: {line.strip()[:100]!r}")
        now.rows.append(cells_of(cells[-now.width :], now.test, name))
    return ()


def _is_note(cells: Sequence[str], width: int) -> bool:
    """Whether a line after an empty line is a note, not another row of the table."""
    return len(cells) <= width or any(cell != NO_VALUE and finite(cell) is None for cell in cells[-width:])


def _part(test: str, description: str) -> str | None:
    found = _PART.search(description) if is_bidirectional(test) else None
    return PARTS[int(found["direction"] or len(PARTS)) - 1] if found else None


def _closed(now: _Open | None, name: str) -> Sequence[Matrix]:
    """The matrix that a test has read last; none of a latency.

    Raises:
        DocumentError: it is not complete.
    """
    if now is None:
        return ()
    # Older versions print no sum: the shape alone tells whether a matrix is whole.
    short = "device_to_device" in now.test and len(now.rows) < now.width and not now.summed
    if not now.rows or short:
        refuse(name, f"nvbandwidth's {now.test} did not finish: its matrix is not complete")
    return (Matrix(now.test, now.part, tuple(now.rows)),) if now.unit == "GB/s" else ()
