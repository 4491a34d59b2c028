"""What the reports of all drills share: the score, and the words for a fault. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.entry.model import Scalar
from runner.kit.drill.injection import Injection
from runner.kit.probe import single
from runner.record.model import Measurement

Labels = Mapping[str, Scalar]


@dataclass(frozen=True)
class DrillReport:
    """What is reported of some drills; `reason`: what was found, None for nothing."""

    measurements: Sequence[Measurement]
    reason: str | None
    details: Mapping[str, object]


def score(
    named: Sequence[bool], wrong: Sequence[bool], labels: Labels, *, injected: bool
) -> list[Measurement]:
    """The counts over some drills.

    Args:
        named: of each, whether the culprit was named.
        wrong: of each, whether another rank was named as certain.
        labels: of the measurements.
        injected: whether there was a fault.
    """
    return [
        single("culprit_named", sum(named), **labels),
        single("wrong_certain", sum(wrong), **labels),
        single("drill_faults", len(named) if injected else 0, **labels),
    ]


def fault_in_words(fault: Injection | None) -> str:
    """`injected: skip on rank 1 in step 4 at reduce_norm`."""
    if fault is None:
        return "healthy ranks"
    place = "" if fault.fault in {"neighbour", "nan"} else f" at {fault.place}"
    step = "" if fault.fault == "neighbour" else f" in step {fault.step}"
    return f"injected: {fault.fault} on rank {fault.rank}{step}{place}"
