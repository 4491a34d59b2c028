"""What a probe declares: the metrics that it reports, and which of its calls compile."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Kind = Literal["amount", "count", "share", "flag", "signed"]
"""Allowed values: 0 or more; whole numbers, 0 or more; 0 to 1; 0 or 1; any number."""

Ceiling = Literal["links", "link_count", "matrix_rate", "power", "memory_rate", "memory"]
"""Which limit of the hardware a value cannot exceed; `runner.record.ceilings` computes it."""


@dataclass(frozen=True)
class Metric:
    """One kind of measurement.

    Attributes:
        name: as in records and runbooks.
        unit: the stored unit (`runner.base.units.STORED_UNITS`).
        better: the direction of improvement; `None` if there is none.
        meaning: one sentence, with the formula if there is one.
        kind: the allowed values.
        statistics: the statistics of its samples that a value may be; `single` is one reading.
        ceiling: the limit of the hardware; None: by the unit.
        label: the human name, as in a table heading: `Longest prompt that fits`.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str
    kind: Kind = "amount"
    statistics: tuple[str, ...] = ("single", "median")
    ceiling: Ceiling | None = None
    label: str = field(kw_only=True)


@dataclass(frozen=True)
class Compiles:
    """Which calls of a probe compile with Inductor, and so need what `runner.hardware.prerequisites` checks for.

    Attributes:
        unless: arguments with which a call does not compile; `--option=value` for an option with one value.
        on_cpu_with: on a host without a GPU, a call compiles only with one of these arguments; None: as with a GPU.
        only_with: a call compiles only with one of these arguments, on any host; None: it needs none of them.
    """

    unless: tuple[str, ...] = ("--skip-compile", "--compile-mode=eager")
    on_cpu_with: tuple[str, ...] | None = None
    only_with: tuple[str, ...] | None = None

    def by(self, words: Sequence[str], *, gpu: bool) -> bool:
        """Whether a call with these arguments compiles on a host with or without a GPU."""
        given = {*words, *(word.partition("=")[0] for word in words)}
        given |= {f"{option}={value}" for option, value in itertools.pairwise(words)}
        if given & set(self.unless) or (self.only_with is not None and not given & set(self.only_with)):
            return False
        return gpu or self.on_cpu_with is None or bool(given & set(self.on_cpu_with))


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """One probe, as the rest of the project knows it.

    Attributes:
        name: of the probe and of its module.
        method_version: incremented when the way a number is taken changes; older numbers are then stale. Written as a
            number: the gate reads it from the source of older commits.
        summary: one line.
        metrics: what it may report; the first is the one that a summary table shows.
        labels: names of all labels that its measurements may have.
        compiles: which of its calls compile; None if none does.
    """

    name: str = field(kw_only=False)
    method_version: int
    summary: str
    metrics: tuple[Metric, ...]
    labels: tuple[str, ...] = ()
    compiles: Compiles | None = None

    @cached_property
    def emits(self) -> tuple[str, ...]:
        """The names of its metrics."""
        return tuple(metric.name for metric in self.metrics)

    def metric(self, name: str) -> Metric | None:
        """The metric of this name that it may report; None if it may not."""
        return next((metric for metric in self.metrics if metric.name == name), None)
