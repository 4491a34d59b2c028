"""What a measured value may be of its samples. Probes make values by these functions, and the gate checks by them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from runner.stats import percentile

SINGLE = "single"
"""The statistic of one reading, which is made of no samples."""

STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "median": statistics.median,
        "mean": statistics.fmean,
        "geometric mean": statistics.geometric_mean,
        "max": max,
        "min": min,
        "sum": math.fsum,
        "p95": lambda values: percentile(values, 95),
        "p99": lambda values: percentile(values, 99),
    }
)
