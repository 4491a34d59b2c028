"""The statistics of samples. Probes compute values with these functions, and the gate checks values with them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from runner.base.stats import percentile

SINGLE = "single"
"""The statistic of a single reading, which has no samples."""

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
