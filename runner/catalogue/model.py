"""What the catalogue says of one metric and of one probe."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One kind of measurement.

    Attributes:
        unit: the stored unit (`runner.units.STORED_UNITS`).
        better: which direction is good; `None` where neither is.
        meaning: one sentence for a reader, with the formula where there is one.
    """

    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str


@dataclass(frozen=True)
class ProbeInfo:
    """One probe, as the rest of the house knows it.

    Attributes:
        method_version: raised by one whenever the way a number is taken changes; older numbers are then stale.
        summary: one line.
        emits: names of the metrics it may report; the first is the one a summary table shows.
    """

    method_version: int
    summary: str
    emits: tuple[str, ...]
