"""What a step looked at: only a step that judged its node can say that nothing is wrong with it. Pure."""

import re
from enum import StrEnum

from runner.entry.model import Runbook, Step
from runner.record.model import StepResult
from runner.vocabulary.sources import SAMPLES

FINDS = "finds"
"""The key of `effective` that is false if a probe cannot find a fault in what it read."""

# Options by which a command gives its probe a text, a tree or values to judge in place of the node.
_GIVEN = re.compile(r"\s--(?:from|root|capability)[ =]")


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
    """What a step that finished looked at: as its entry declares it, its command shows, or else its probe reported it.

    A step without a probe, or whose probe names no source, judged the node. What a record says alone does not turn a
    sample into a node.
    """
    if _of_sample(runbook.step(result.id), result):
        return Looked.SAMPLE
    return Looked.SETTINGS if result.effective.get(FINDS) is False else Looked.NODE


def _of_sample(step: Step | None, result: StepResult) -> bool:
    if step is not None and (step.drill or _GIVEN.search(step.command)):
        return True
    told = result.effective.get("source")
    # A probe names its source by a word.
    if told is not None and (not isinstance(told, str) or told in SAMPLES):
        return True
    return any(one.labels.get("source") in SAMPLES for one in result.measurements)
