"""What the probes measure: one vocabulary for probes, expectations and pages.

It stands apart from the probes so that a page can say what a number means, and whether it is stale, without
importing a probe. A probe refuses to report a measurement that is not listed for it here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue import compiling, interconnect, memory, precision, serving
from runner.catalogue.model import Compiles, Metric, ProbeInfo

__all__ = ["METRICS", "PROBES", "RETIRED", "Compiles", "Metric", "ProbeInfo", "label_of", "metric_of"]

_THEMES = (compiling, interconnect, serving, memory, precision)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {name: metric for theme in _THEMES for name, metric in theme.METRICS.items()}
)
PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {name: probe for theme in _THEMES for name, probe in theme.PROBES.items()}
)
# What no probe reports any more: published records that hold it stay readable, and its name is not used again.
RETIRED: Mapping[str, Metric] = MappingProxyType(
    {
        "checkpoint_ratio": Metric(
            "1",
            "lower",
            "Peak of a prefill with activation checkpointing ÷ without; now remedy_memory_ratio.",
        ),
    }
)


def metric_of(name: str) -> Metric | None:
    """The metric of a stored measurement, retired ones included; None where there never was one."""
    return METRICS.get(name) or RETIRED.get(name)


def label_of(name: str) -> str:
    """The name of a metric for a reader; where it has none, its identifier as words."""
    metric = metric_of(name)
    return (metric.label if metric else "") or name.replace("_", " ").capitalize()
