"""Decides which steps of a runbook run on a machine with the caller's options, with a reason for each skipped step."""

import re
from dataclasses import dataclass
from typing import Protocol

from runner.base.errors import InputError
from runner.entry.model import Phase, Runbook, Safety, Step
from runner.entry.shell import calls_of
from runner.hardware.gpus import Visible
from runner.hardware.machine import Machine
from runner.hardware.prerequisites import Missing, missing_to_compile
from runner.sizing.presets import PRESETS, default_preset
from runner.vocabulary import PROBES

ALLOWANCES = ("changes-host", "busy")
_HIDDEN = re.compile(
    r"needs ([0-9]{1,4}) GPUs?, this run can use ([0-9]{1,4}) of ([0-9]{1,4})"
    r" \((?:CUDA_VISIBLE_DEVICES|MIG|compute mode)\)"
)


@dataclass(frozen=True)
class Request:
    """The caller's request.

    Attributes:
        phases: only these phases; all when empty.
        steps: only the steps with these ids; all when empty. Earlier steps of their phase and, for Verify, the steps of
            Fix run too, because the step starts from their environment.
        preset: overrides the machine's own.
        slow: whether steps marked `slow` run.
        nodes: number of nodes that a step may use.
        within: time limit of the whole run with all its entries, in seconds; None for no limit.
        visible: the GPUs that CUDA shows to the caller; None: all of the machine's.
    """

    phases: tuple[Phase, ...] = ()
    steps: tuple[str, ...] = ()
    reproduce: bool = False
    allow: tuple[str, ...] = ()
    preset: str | None = None
    slow: bool = True
    nodes: int = 1
    within: float | None = None
    visible: Visible | None = None

    def gpus(self, machine: Machine) -> int:
        """Number of the machine's GPUs that a step can use."""
        return len(machine.gpus if self.visible is None else self.visible.gpus)


@dataclass(frozen=True)
class PlannedStep:
    """A step, and why it is skipped (None: it runs)."""

    step: Step
    skip: str | None


@dataclass(frozen=True)
class Plan:
    """The steps of a run, in order.

    `gpus` is the number of GPUs that its steps can use, `longest_s` the sum of the deadlines of the steps that run, in
    seconds.
    """

    runbook: Runbook
    preset: str
    steps: tuple[PlannedStep, ...]
    phases: tuple[Phase, ...]
    gpus: int

    @property
    def longest_s(self) -> float:
        """The maximum runtime, in seconds."""
        return sum(planned.step.timeout for planned in self.steps if planned.skip is None)


class ToCompile(Protocol):
    """Checks the prerequisites of a compile: `missing_to_compile`, or a replacement in tests."""

    def __call__(self, *, gpu: bool) -> Missing | None:
        """What a compile for this kind of device lacks on this host."""


def make_plan(
    runbook: Runbook, machine: Machine, request: Request, to_compile: ToCompile = missing_to_compile
) -> Plan:
    """Decide for every requested step whether it runs here.

    Args:
        runbook: the entry.
        machine: this node.
        request: the caller's request.
        to_compile: called only for steps that compile and that would otherwise run.

    Raises:
        InputError: a step or preset that does not exist, or a step asked for outside the asked phases.
    """
    preset = request.preset or default_preset(request.gpus(machine))
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; known presets: {', '.join(PRESETS)}")
    planned = tuple(
        PlannedStep(
            step, why_not(step, machine, request) or _missing(step, to_compile, gpu=request.gpus(machine) > 0)
        )
        for step in asked_steps(runbook, request)
    )
    return Plan(
        runbook,
        preset,
        planned,
        tuple(phase for phase in Phase if phase in request.phases or not request.phases),
        request.gpus(machine),
    )


def asked_steps(runbook: Runbook, request: Request) -> tuple[Step, ...]:
    """The steps that a request selects, independent of the machine, in run order.

    Raises:
        InputError: a step that does not exist, or one asked for outside the asked phases.
    """
    known = [step.id for step in runbook.steps]
    for step_id in request.steps:
        if step_id not in known:
            raise InputError(f"{runbook.id} has no step {step_id!r}; it has {', '.join(known)}")
    chosen = [
        step
        for step in runbook.steps
        if (not request.phases or step.phase in request.phases)
        and (not request.steps or step.id in request.steps)
        and (step.phase is not Phase.REPRODUCE or request.reproduce or step.id in request.steps)
    ]
    ids = {step.id for step in chosen}
    # Verify starts from Fix's environment, and a single step from its phase's: those run too.
    if request.steps or request.phases:
        for step in chosen:
            ids.update(earlier.id for earlier in runbook.inherits(step))
    outside = [step_id for step_id in request.steps if step_id not in ids]
    if outside:
        raise InputError(f"not in the requested phases: {', '.join(outside)}; omit --phase to run a step")
    return tuple(step for step in runbook.steps if step.id in ids)


def why_not(step: Step, machine: Machine, request: Request) -> str | None:
    """Why a step does not run on this machine for this request, regardless of installed software; None if it runs."""
    if machine.gpu_error and step.gpus:
        return f"needs {_count(step.gpus, 'GPU')}; the GPUs of this host cannot be read ({machine.gpu_error})"
    if step.gpus > len(machine.gpus):
        return f"needs {_count(step.gpus, 'GPU')}, this host has {len(machine.gpus) or 'none'}"
    hidden = None if request.visible is None else _hidden(step, len(machine.gpus), request.visible)
    if hidden is not None:
        return hidden
    if step.nodes > request.nodes:
        return f"needs {_count(step.nodes, 'node')}, this run has {request.nodes}"
    if step.safety is Safety.CHANGES_HOST and "changes-host" not in request.allow:
        return "changes the host; run with --allow changes-host to permit it"
    if step.safety is Safety.LOADS_DEVICE and "busy" not in request.allow:
        busy = [gpu.index for gpu in (request.visible or machine).gpus if gpu.busy]
        if busy:
            named = ", ".join(str(index) for index in busy)
            return f"would load GPUs in use by other processes (index {named}); --allow busy runs it anyway"
    if step.slow and not request.slow:
        return "marked slow and left out; run the entry without --without-slow to include it"
    return None


def explained_by_visibility(reason: str | None, step: Step, installed: int, used: int = 0) -> bool:
    """Whether a step was skipped because its run could use fewer GPUs than are installed and than the step needs.

    Args:
        reason: why it was skipped.
        step: the step.
        installed: GPUs of the machine.
        used: GPUs that another step of the same run used; a run that used them could use them.
    """
    found = _HIDDEN.fullmatch(reason or "")
    if found is None or step.safety is Safety.READ_ONLY:
        return False
    needed, usable, known = (int(number) for number in found.groups())
    return used <= usable < needed == step.gpus <= known == installed


def _hidden(step: Step, installed: int, visible: Visible) -> str | None:
    """Why a step cannot use the GPUs that it needs, although they are installed."""
    # A step that only reads asks the driver, which shows all of them.
    if step.safety is Safety.READ_ONLY:
        return None
    if step.gpus > len(visible.gpus):
        usable = f"{len(visible.gpus)} of {installed}"
        return f"needs {_count(step.gpus, 'GPU')}, this run can use {usable} ({visible.hidden_by})"
    if visible.held:
        named = ", ".join(map(str, visible.held))
        return (
            f"the compute mode of GPUs excludes this run (index {named}); list others in CUDA_VISIBLE_DEVICES"
        )
    return None


def _missing(step: Step, to_compile: ToCompile, *, gpu: bool) -> str | None:
    for call in calls_of(step.command):
        info = PROBES.get(call.probe or "")
        if info and info.compiles and info.compiles.by(call.words, gpu=gpu):
            missing = to_compile(gpu=gpu)
            return None if missing is None else missing.reason
    return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
