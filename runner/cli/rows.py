"""Rows of cells that are aligned on a wide terminal and go over several lines on a narrow one. Pure."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

_GAP = "  "
_NARROWEST = 20


def aligned(rows: Sequence[Sequence[Text]], width: int | None, indent: int) -> Iterator[Text]:
    """The lines of each row. Its first cell, which may have to be typed, is never folded or shortened.

    Args:
        rows: cells of one style each (the first may have several), as many in each row.
        width: in columns; None for one line a row.
        indent: columns before the cells that do not fit into the first line.
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    for row in rows:
        line, place = row[0].copy(), 1
        while place < len(row):
            before = sum(widths[:place]) + len(_GAP) * place
            if width is not None and before + len(row[place]) > width:
                break
            line.append(" " * (before - len(line))).append_text(row[place])
            place += 1
        line.rstrip()
        yield line
        if width is not None:
            yield from _folded(row[place:], width, indent)


def _folded(cells: Sequence[Text], width: int, indent: int) -> Iterator[Text]:
    line = Text()
    for cell in cells:
        if len(line) and len(line) + len(_GAP) + len(cell) <= width:
            line.append(_GAP).append_text(cell)
            continue
        if len(line):
            yield line
        *whole, last = textwrap.wrap(cell.plain, max(width - indent, _NARROWEST)) or [""]
        yield from (Text(" " * indent).append(part, cell.style) for part in whole)
        line = Text(" " * indent).append(last, cell.style) if last else Text()
    if len(line):
        yield line
