"""What the probes measure: one vocabulary for probes, expectations and pages.

It is separate from the probes so that a page can explain a number, and tell whether it is stale, without importing
a probe. A probe refuses to report a measurement that is not listed for it here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue import compiling, interconnect, memory, precision, serving
from runner.catalogue.model import Compiles, Metric, ProbeInfo

__all__ = [
    "METRICS",
    "PROBES",
    "RENAMED",
    "RETIRED",
    "Compiles",
    "Metric",
    "ProbeInfo",
    "current_name",
    "label_of",
    "metric_of",
]

_THEMES = (compiling, interconnect, serving, memory, precision)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {name: metric for theme in _THEMES for name, metric in theme.METRICS.items()}
)
PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {name: probe for theme in _THEMES for name, probe in theme.PROBES.items()}
)
# Metrics that no probe reports any more: records with them stay readable, and the names are not used again.
RETIRED: Mapping[str, Metric] = MappingProxyType(
    {
        "checkpoint_ratio": Metric(
            "1",
            "lower",
            "Peak of a prefill with activation checkpointing ÷ without; replaced by remedy_memory_ratio.",
            label="Peak with checkpointing ÷ without",
        ),
    }
)
# Old name -> new name where only the name changed: stored numbers keep the old one.
RENAMED: Mapping[str, str] = MappingProxyType({"slow_collective_time": "collective_time_p95"})


def metric_of(name: str) -> Metric | None:
    """The metric of a stored measurement, retired and renamed ones included; None for a name that never existed."""
    return METRICS.get(current_name(name)) or RETIRED.get(name)


def current_name(name: str) -> str:
    """Today's name of a metric: the new one if it was renamed."""
    return RENAMED.get(name, name)


def label_of(name: str) -> str:
    """The human name of a metric; for an unknown one, its identifier as words."""
    metric = metric_of(name)
    return metric.label if metric else name.replace("_", " ").capitalize()
