"""Which of a step's measurements speaks for it, and which of its labels tell it from the others."""

from collections.abc import Mapping, Sequence

from runner.catalogue import PROBES
from runner.entry.model import Scalar
from runner.evidence.record import Measurement, StepResult


def key_measurement(result: StepResult) -> Measurement | None:
    """The measurement that speaks for a step: the last one that it reported of its probe's first metric."""
    info = PROBES.get(result.probe or "")
    for name in info.emits if info else ():
        named = [measurement for measurement in result.measurements if measurement.name == name]
        if named:
            return named[-1]
    return None


def telling_labels(measurement: Measurement, among: Sequence[Measurement]) -> Mapping[str, Scalar]:
    """Its labels, less those that every measurement of its name has alike: they tell nothing apart."""
    same = [other.labels for other in among if other.name == measurement.name]
    return {
        name: value
        for name, value in measurement.labels.items()
        if any(labels.get(name) != value for labels in same)
    }
