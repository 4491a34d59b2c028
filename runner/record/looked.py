"""What a step looked at: only a step that judged its node can say that nothing is wrong with it. Pure."""

from enum import StrEnum

from runner.entry.model import Runbook
from runner.record.model import StepResult
from runner.vocabulary.sources import SAMPLES

FINDS = "finds"
"""The key of `effective` that is false if a probe cannot find a fault in what it read."""


class Looked(StrEnum):
    """What a step looked at.

    `node`: it judged this node. `settings`: it read this node, and only a comparison of nodes can find something in it.
    `sample`: it judged input that is the same on every node: captured or pasted, or a drill that the step made itself.
    """

    NODE = "node"
    SETTINGS = "settings"
    SAMPLE = "sample"

    @property
    def why(self) -> str:
        """Why its result says nothing about the node; empty if it does."""
        return {
            Looked.NODE: "",
            Looked.SETTINGS: "read, and finds nothing by itself: only a comparison of nodes (--on slurm) does",
            Looked.SAMPLE: "judges a sample or a drill of its own, not this node",
        }[self]


def looked_at(runbook: Runbook, result: StepResult) -> Looked:
    """What a step that finished looked at: as the entry declares it (`drill`), else as its probe reported it.

    A step without a probe, or whose probe names no source, judged the node.
    """
    step = runbook.step(result.id)
    if (step is not None and step.drill) or result.effective.get("source") in SAMPLES:
        return Looked.SAMPLE
    return Looked.SETTINGS if result.effective.get(FINDS) is False else Looked.NODE
