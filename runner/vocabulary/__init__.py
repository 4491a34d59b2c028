"""What the probes measure: one vocabulary for probes, expectations and pages.

Each probe declares its metrics in its own module, and pages, checks and the gate read these declarations here. A
module of a probe is imported when its declaration is asked for, and imports neither torch nor a driver. A probe refuses
to report a measurement that it does not declare.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.vocabulary.model import Compiles, Declaration, Metric
from runner.vocabulary.shared import RENAMED, RETIRED

__all__ = [
    "METRICS",
    "PROBES",
    "RENAMED",
    "RETIRED",
    "Compiles",
    "Declaration",
    "Metric",
    "current_name",
    "label_of",
    "metric_of",
]

_PROBES = "runner.probes"
# Tools of other projects that report as a probe, and have no parser here: name -> its reader, with a `TOOL`.
_TOOLS = {name: f"runner.record.tools.{name}" for name in ("nccl_tests", "nvbandwidth")}


class _Probes(Mapping[str, Declaration]):
    """Name → declaration; a probe is imported when it is looked up."""

    def __getitem__(self, name: str) -> Declaration:
        if name in _TOOLS:
            found: Declaration = importlib.import_module(_TOOLS[name]).TOOL
        elif name in _names():
            found = importlib.import_module(f"{_PROBES}.{name}").PROBE
        else:
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _names()

    def __iter__(self) -> Iterator[str]:
        return iter(_names())

    def __len__(self) -> int:
        return len(_names())


class _Metrics(Mapping[str, Metric]):
    """Name → metric, of all probes."""

    def __getitem__(self, name: str) -> Metric:
        return _metrics()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_metrics())

    def __len__(self) -> int:
        return len(_metrics())


@functools.cache
def _names() -> tuple[str, ...]:
    folder = str(Path(__file__).parents[1] / "probes")
    return tuple(sorted([*_TOOLS, *(module.name for module in pkgutil.iter_modules([folder]))]))


@functools.cache
def _metrics() -> dict[str, Metric]:
    """Raises ValueError where two probes declare different metrics of one name."""
    found: dict[str, Metric] = {}
    for probe in PROBES.values():
        for metric in probe.metrics:
            if found.setdefault(metric.name, metric) != metric:
                raise ValueError(f"{probe.name} declares another {metric.name} than another probe")
    return found


PROBES: Mapping[str, Declaration] = _Probes()
METRICS: Mapping[str, Metric] = _Metrics()


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
