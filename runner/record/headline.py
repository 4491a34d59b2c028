"""The key measurement of a step, and the labels that distinguish it from the step's other measurements."""

from collections.abc import Mapping, Sequence

from runner.entry.model import Scalar
from runner.record.model import Measurement, StepResult
from runner.vocabulary import PROBES


def key_measurement(result: StepResult) -> Measurement | None:
    """The key measurement of a step: the last one it reported for the first metric of its probe.

    None if it has none, or was simulated: such a number stands for nothing.
    """
    info = None if result.simulated else PROBES.get(result.probe or "")
    for name in info.emits if info else ():
        named = [measurement for measurement in result.measurements if measurement.name == name]
        if named:
            return named[-1]
    return None


def telling_labels(measurement: Measurement, among: Sequence[Measurement]) -> Mapping[str, Scalar]:
    """Its labels without those that are equal in all measurements of the same name."""
    same = [other.labels for other in among if other.name == measurement.name]
    return {
        name: value
        for name, value in measurement.labels.items()
        if any(labels.get(name) != value for labels in same)
    }
