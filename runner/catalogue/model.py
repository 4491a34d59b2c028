"""What the catalogue says of one metric and of one probe."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["amount", "count", "share", "flag", "signed"]
"""Which values there are: from 0 on; whole ones from 0 on; 0 to 1; 0 or 1; any."""


@dataclass(frozen=True)
class Metric:
    """One kind of measurement.

    Attributes:
        unit: the stored unit (`runner.units.STORED_UNITS`).
        better: which direction is good; `None` where neither is.
        label: the name for a reader, as a heading: `Longest prompt that fits`. Empty: made from the identifier.
        meaning: one sentence for a reader, with the formula where there is one.
        kind: which values there are.
        statistics: what a value may be of its samples; `single` is one reading.
    """

    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str
    kind: Kind = "amount"
    statistics: tuple[str, ...] = ("single", "median")
    label: str = ""


@dataclass(frozen=True)
class Compiles:
    """Which calls of a probe compile with Inductor, and so need what `runner.prerequisites` looks for.

    Attributes:
        unless: words of a call with which it does not; `--option=value` for an option with one value.
        on_cpu_with: on a host without a GPU it compiles only with one of these words; None: as with one.
    """

    unless: tuple[str, ...] = ("--skip-compile", "--compile-mode=eager")
    on_cpu_with: tuple[str, ...] | None = None

    def by(self, words: Sequence[str], *, gpu: bool) -> bool:
        """Whether a call with these arguments compiles on a host with or without a GPU."""
        given = {*words, *(word.partition("=")[0] for word in words)}
        given |= {f"{option}={value}" for option, value in itertools.pairwise(words)}
        if given & set(self.unless):
            return False
        return gpu or self.on_cpu_with is None or bool(given & set(self.on_cpu_with))


@dataclass(frozen=True)
class ProbeInfo:
    """One probe, as the rest of the house knows it.

    Attributes:
        method_version: raised by one whenever the way a number is taken changes; older numbers are then stale.
        summary: one line.
        emits: names of the metrics it may report; the first is the one a summary table shows.
        compiles: which of its calls compile; None where none does.
        labels: names of all labels that its measurements may carry.
    """

    method_version: int
    summary: str
    emits: tuple[str, ...]
    compiles: Compiles | None = None
    labels: tuple[str, ...] = ()
