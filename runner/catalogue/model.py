"""The catalogue's description of one metric and of one probe."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["amount", "count", "share", "flag", "signed"]
"""Allowed values: 0 or more; whole numbers, 0 or more; 0 to 1; 0 or 1; any number."""


@dataclass(frozen=True)
class Metric:
    """One kind of measurement.

    Attributes:
        unit: the stored unit (`runner.base.units.STORED_UNITS`).
        better: the direction of improvement; `None` if there is none.
        label: the human name, as in a table heading: `Longest prompt that fits`.
        meaning: one sentence, with the formula if there is one.
        kind: the allowed values.
        statistics: the statistics of its samples that a value may be; `single` is one reading.
    """

    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str
    kind: Kind = "amount"
    statistics: tuple[str, ...] = ("single", "median")
    label: str = field(kw_only=True)


@dataclass(frozen=True)
class Compiles:
    """Which calls of a probe compile with Inductor, and so need what `runner.hardware.prerequisites` checks for.

    Attributes:
        unless: arguments with which a call does not compile; `--option=value` for an option with one value.
        on_cpu_with: on a host without a GPU, a call compiles only with one of these arguments; None: as with a GPU.
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
    """One probe, as the rest of the project knows it.

    Attributes:
        method_version: incremented when the way a number is taken changes; older numbers are then stale.
        summary: one line.
        emits: names of the metrics it may report; the first is the one a summary table shows.
        compiles: which of its calls compile; None if none does.
        labels: names of all labels that its measurements may have.
    """

    method_version: int
    summary: str
    emits: tuple[str, ...]
    compiles: Compiles | None = None
    labels: tuple[str, ...] = ()
