"""What prose asks for by name: measurements, and tables of them or of computed values."""

from dataclasses import dataclass
from datetime import datetime

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
