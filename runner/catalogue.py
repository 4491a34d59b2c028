"""What the probes measure: one vocabulary for probes, expectations and pages.

It stands apart from the probes so that a page can say what a number means, and whether it is stale, without
importing a probe. A probe refuses to report a measurement that is not listed for it here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
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


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "nvlinks_active": Metric("1", "higher", "NVLinks that are up on one GPU, as NVML counts them."),
        "nvlinks_per_pair": Metric(
            "1", "higher", "NVLinks between the two GPUs of the worst-connected pair."
        ),
        "nvlink_errors": Metric(
            "1",
            "lower",
            "NVLink data-link errors (replay, recovery, CRC) of one GPU since the driver was loaded.",
        ),
        "bus_bandwidth": Metric(
            "B/s",
            "higher",
            "Algorithm bandwidth × the collective's bus factor; all_reduce: 2(n−1)/n. Comparable across rank counts.",
        ),
        "algorithm_bandwidth": Metric("B/s", "higher", "Message bytes ÷ time of the slowest rank."),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "topology": ProbeInfo(
            1,
            "How the GPUs are wired, against how their board should be",
            ("nvlinks_per_pair", "nvlinks_active", "nvlink_errors"),
        ),
        "collectives": ProbeInfo(
            1, "Collective bandwidth over message sizes", ("bus_bandwidth", "algorithm_bandwidth")
        ),
    }
)
