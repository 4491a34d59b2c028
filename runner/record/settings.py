"""The settings of a node, by name: versions, firmware, modes, limits. They should be equal on all nodes alike. Pure."""

from collections.abc import Mapping

from pydantic import JsonValue

from runner.hardware.machine import Machine
from runner.record.model import StepResult
from runner.vocabulary.sources import CAPTURED

# Longer than any name and any value of a setting; a node may return anything.
_LONGEST_NAME, _LONGEST_VALUE = 100, 4000


def machine_settings(machine: Machine) -> dict[str, str]:
    """The facts about a host that should be equal on all nodes of a fleet; an unknown one is left out.

    A probe that reads one of them uses the same name and the same form.
    """
    facts = {
        "machine class": machine.machine_class,
        "driver": machine.driver,
        "kernel": machine.kernel,
        "operating system": machine.os,
        "processor": machine.cpu,
        "torch": machine.torch,
        "CUDA of torch": machine.cuda,
        "NCCL package": machine.nccl,
        "Python": machine.python,
    }
    return {name: value for name, value in facts.items() if value}


def step_settings(step: StepResult, *, rehearsed: bool = False) -> Mapping[str, str]:
    """The settings that a probe read from this node (`details.settings`).

    Empty for a step that did not finish, was simulated, or judged captured input, which is of another node.

    Args:
        step: of a run.
        rehearsed: the run was simulated as a whole, so that its steps are judged like any others.
    """
    counts = step.status.finished and (rehearsed or not step.simulated)
    if not counts or step.effective.get("source") == CAPTURED:
        return {}
    return plain_settings(step.details.get("settings"))


def plain_settings(found: JsonValue) -> dict[str, str]:
    """What of a value that a node returned are settings: names with a text."""
    pairs = found.items() if isinstance(found, dict) else ()
    return {
        name[:_LONGEST_NAME]: value[:_LONGEST_VALUE]
        for name, value in pairs
        if isinstance(value, str) and value
    }
