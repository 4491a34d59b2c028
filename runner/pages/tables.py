"""Tables that prose asks for by name: those made of records, and those computed by pure functions."""

from dataclasses import dataclass
from datetime import datetime

from runner.base.units import format_value
from runner.hardware.boards import BOARDS
from runner.pages.numbers import Number


@dataclass(frozen=True)
class Reading:
    """One measurement on one machine class, as prose shows it; `number` is None if it is unmeasured.

    Attributes:
        when: when the newest of it was taken.
        stale: the step has changed since.
        how: versions, preset and count, for whoever asks.
        record: path of the record under the site.
        doubt: why the records do not give a single number; for the author.
    """

    machine_class: str
    number: Number | None = None
    when: datetime | None = None
    stale: bool = False
    how: str = ""
    record: str = ""
    doubt: str | None = None


@dataclass(frozen=True)
class Table:
    """A table: `head` names its columns, the first cell of a row names the row."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | Reading, ...], ...]


def board_peaks() -> Table:
    """What boards can do at most, with the source of each number."""
    return Table(
        caption="Peaks of known boards",
        head=("", "memory bandwidth", "NVLink, each way", "dense BF16", "dense FP8", "power", "source"),
        rows=tuple(
            (
                board.name,
                format_value(board.memory_bandwidth, "B/s"),
                f"{board.nvlinks} × {format_value(board.nvlink_bandwidth, 'B/s')}",
                format_value(board.peak_bf16, "FLOP/s"),
                format_value(board.peak_fp8, "FLOP/s"),
                format_value(board.max_power_w, "W"),
                f"memory: {board.memory_source}; the rest: {board.source}",
            )
            for board in BOARDS
        ),
    )
