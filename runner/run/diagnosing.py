"""Runs the read-only Diagnose steps of every entry on this node in parallel, under one deadline."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from runner.base.errors import InputError, RunbookError
from runner.base.parallel import give_up, in_parallel
from runner.base.placed import PlacedFileError, placed_file
from runner.entry.model import Phase, Runbook, Safety
from runner.entry.plan import Plan, PlannedStep, Request, make_plan
from runner.hardware.machine import Machine
from runner.record.diagnosis import Diagnosis, NotLooked, Obstacle, State, diagnose_entry, rank
from runner.run.block import GRACE_S
from runner.run.command import BlockEnding, CommandResult, block_not_started, run_block
from runner.run.local import SECONDS, RunContext, run_plan

# Names the process whose environment the probes judge (`runner.kit.judged`).
JUDGED_PID = "RUNBOOK_JUDGED_PID"
# Entries at once. More than there are cores, because steps wait: for two readings of a process, for a name server, for
# a call of NVML that hangs. With all of them at once, those that wait for long would start as late as the others.
_MOST_AT_ONCE = 8
# How long a killed process may take to disappear, in seconds: a read-only step holds no device memory.
_PATIENCE_S = 5.0
# Maximum time after the deadline until every step has ended or been given up, in seconds.
_ENDING_S = 2 * GRACE_S + _PATIENCE_S + 10.0


@dataclass(frozen=True)
class Look:
    """Settings of a diagnosis: working folder, environment, and deadline (`time.monotonic()` seconds)."""

    root: Path
    environment: Mapping[str, str]
    scratch: Path
    deadline: float


def judging(pid: int, own: Mapping[str, str]) -> dict[str, str]:
    """The environment for a diagnosis of a running process: the caller's own, plus the process id.

    No program is started in that process's environment, because its owner would then control what the program loads.
    The probes that judge an environment read it as data.

    Raises:
        InputError: there is no such process.
        RunbookError: its environment may not be read.
    """
    try:
        # Opening it checks the permission. Only the steps, which have a deadline, read it: the process may have mapped
        # it from a file on a dead mount.
        with placed_file(Path(f"/proc/{pid}/environ")):
            return {**own, JUDGED_PID: str(pid)}
    except PlacedFileError as error:
        if error.kind == "missing":
            raise InputError(f"there is no process {pid}; ps -e lists the running ones") from error
        raise RunbookError(
            f"no permission to read the environment of process {pid}; run this as its user, or as root"
        ) from error


def diagnose(runbooks: Sequence[Runbook], machine: Machine, look: Look) -> tuple[Diagnosis, ...]:
    """Run the read-only Diagnose steps of every entry and rank the entries by what was found.

    Entries run in parallel; the steps of one entry run one after the other, because they share an environment. Steps
    that load a device or change anything do not run, so no lock is taken and no run on this node is disturbed.

    Processes that cannot be killed are left, and an entry without an answer counts as not checked: the diagnosis ends
    a few seconds after its deadline whatever its steps do.
    """
    stopped = Event()
    looks = in_parallel(
        lambda runbook: _entry(runbook, machine, look, stopped), runbooks, min(_MOST_AT_ONCE, len(runbooks))
    )
    try:
        wait(looks, max(0.0, look.deadline - time.monotonic()) + _ENDING_S)
    except BaseException:
        stopped.set()
        _end(looks)
        raise
    stopped.set()
    both = zip(runbooks, looks, strict=True)
    return rank([one.result() if one.done() else _no_answer(runbook) for runbook, one in both])


def _end(looks: Sequence[Future[Diagnosis]]) -> None:
    """Wait for stopped diagnoses, as long as their processes may take to end."""
    # A second interrupt ends the wait.
    with contextlib.suppress(KeyboardInterrupt):
        give_up(looks, _ENDING_S)


def _no_answer(runbook: Runbook) -> Diagnosis:
    """The diagnosis of an entry that returned nothing: this process itself is blocked."""
    steps = [step for step in runbook.steps if step.phase is Phase.DIAGNOSE]
    why = "no answer by the overall deadline"
    blind = tuple(NotLooked(step.id, why, Obstacle.BLOCKED) for step in steps)
    head = runbook.head
    return Diagnosis(head.id, head.number, head.title, State.UNKNOWN, (), (), (), blind)


def _entry(runbook: Runbook, machine: Machine, look: Look, stopped: Event) -> Diagnosis:
    # A diagnosis compiles nothing, so the compiler is not checked.
    every = make_plan(runbook, machine, Request(phases=(Phase.DIAGNOSE,)), lambda *, gpu: None)  # noqa: ARG005
    plan = reading_plan(every, len(machine.gpus))

    def run(command: str, *, environment: Mapping[str, str], timeout: float, cwd: Path) -> CommandResult:
        if stopped.is_set():
            return replace(block_not_started("the diagnosis was interrupted"), ending=BlockEnding.INTERRUPTED)
        left = look.deadline - time.monotonic()
        if left <= 0:
            return block_not_started("the overall deadline had passed")
        seconds = min(timeout, left)
        given = {**environment, SECONDS: f"{seconds:.6g}"}
        return run_block(
            command,
            environment=given,
            timeout=seconds,
            cwd=cwd,
            stopped=stopped.is_set,
            patience=_PATIENCE_S,
        )

    context = RunContext(machine, "diagnose", look.root, look.environment, look.scratch / runbook.id, run)
    results = run_plan(plan, context, lambda _step, _slot: None)
    # A node with unreadable GPUs is not healthy: steps that need GPUs count as blocked.
    blocked = {
        p.step.id
        for p in plan.steps
        if machine.gpu_error and p.step.gpus and p.step.safety is Safety.READ_ONLY
    }
    return diagnose_entry(
        runbook, list(results), blocked, gpus=len(machine.gpus), rehearsed=machine.simulated
    )


def reading_plan(plan: Plan, gpus: int) -> Plan:
    """The plan without the steps that do more than read. `gpus`: how many this host has."""
    return replace(plan, steps=tuple(_only_reading(plan.runbook, planned, gpus) for planned in plan.steps))


def _only_reading(runbook: Runbook, planned: PlannedStep, gpus: int) -> PlannedStep:
    step = planned.step
    # A step that needs more GPUs than there are keeps that reason: `runbook run` would not run it here either.
    if step.safety is Safety.READ_ONLY or (planned.skip and step.gpus > gpus):
        return planned
    does = "loads the device" if step.safety is Safety.LOADS_DEVICE else "changes the host"
    return PlannedStep(
        step, f"{does}, so not run by `diagnose`; run it with `runbook run {runbook.id} --step {step.id}`"
    )
