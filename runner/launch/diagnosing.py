"""Looks at this node with every entry's read-only Diagnose steps, side by side, under one deadline."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import psutil

from runner.entry.model import Phase, Runbook, Safety
from runner.errors import InputError, RunbookError
from runner.evidence.diagnosis import Diagnosis, diagnose_entry, rank
from runner.evidence.redact import host_secrets, redact_step
from runner.hardware.machine import Machine
from runner.launch.command import CommandResult, Ending, not_started, run_block
from runner.launch.local import SECONDS, run_plan
from runner.placed import PlacedFileError, placed_file
from runner.plan import Plan, PlannedStep, Request, make_plan

# What a step finds the process in whose environment is to be judged (`runner.probes.judged`).
JUDGED_PID = "RUNBOOK_JUDGED_PID"
_MOST_AT_ONCE = 4
_POLL_S = 0.05


@dataclass(frozen=True)
class Look:
    """How to look: from which folder, in which environment, and until when (`time.monotonic()` seconds)."""

    root: Path
    environment: Mapping[str, str]
    scratch: Path
    deadline: float


def judging(pid: int, own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a look that judges a running process: the caller's own, which names it.

    Nothing is started in the process's environment: whoever owns it would decide what our programs load. The probes
    that judge an environment read it themselves, as data.

    Raises:
        InputError: there is no such process.
        RunbookError: its environment may not be read.
    """
    try:
        # Opening it asks for leave. What it holds is read by the steps, which have a deadline: the process may have
        # mapped it from a file that never answers.
        with placed_file(Path(f"/proc/{pid}/environ")):
            return {**own, JUDGED_PID: str(pid)}
    except PlacedFileError as error:
        if error.kind == "missing":
            raise InputError(f"there is no process {pid}; name one that runs, as pgrep shows it") from error
        raise RunbookError(
            f"cannot read the environment of process {pid}; run this as its user, or as root"
        ) from error


def diagnose(runbooks: Sequence[Runbook], machine: Machine, look: Look) -> tuple[Diagnosis, ...]:
    """Run the read-only Diagnose steps of every entry and rank the entries by what was found.

    Entries stand side by side; an entry's own steps run one after the other, since they share an environment. No
    step that loads a device or changes anything is run, so no lock is taken and no run on this node is disturbed.
    """
    stopped = Event()
    with ThreadPoolExecutor(max_workers=max(1, min(_MOST_AT_ONCE, len(runbooks)))) as pool:
        looks = [pool.submit(_entry, runbook, machine, look, stopped) for runbook in runbooks]
        try:
            return rank([one.result() for one in looks])
        except BaseException:
            stopped.set()
            _end(looks)
            raise


def _end(looks: Sequence[Future[Diagnosis]]) -> None:
    """End every look: a thread can't be interrupted, what it waits for can be killed."""
    for one in looks:
        one.cancel()
    while True:
        # A second interrupt changes nothing: all are being killed already.
        with contextlib.suppress(KeyboardInterrupt):
            # Again and again, since a step may have been about to start.
            while wait(looks, _POLL_S).not_done:
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.kill()
            return


def _entry(runbook: Runbook, machine: Machine, look: Look, stopped: Event) -> Diagnosis:
    # A look compiles nothing, so no compiler is tried for it.
    every = make_plan(runbook, machine, Request(phases=(Phase.DIAGNOSE,)), lambda *, gpu: None)  # noqa: ARG005
    plan = reading_plan(every)

    def run(command: str, *, environment: Mapping[str, str], timeout: float, cwd: Path) -> CommandResult:
        if stopped.is_set():
            return replace(not_started("the look was interrupted"), ending=Ending.INTERRUPTED)
        left = look.deadline - time.monotonic()
        if left <= 0:
            return not_started("the look's overall deadline had passed")
        seconds = min(timeout, left)
        given = {**environment, SECONDS: f"{seconds:.6g}"}
        return run_block(command, environment=given, timeout=seconds, cwd=cwd)

    results = run_plan(
        plan,
        machine,
        run_id="diagnose",
        root=look.root,
        environment=look.environment,
        scratch=look.scratch / runbook.id,
        on_start=lambda _step, _turn: None,
        run=run,
    )
    secrets = host_secrets()
    # Unreadable GPUs are no reason to call a node fine: what needed them could not look.
    hindered = {p.step.id for p in plan.steps if machine.gpu_error and p.step.gpus}
    return diagnose_entry(runbook, [redact_step(result, secrets) for result in results], hindered)


def reading_plan(plan: Plan) -> Plan:
    """The plan with every step left out that does more than read."""
    return replace(plan, steps=tuple(_only_reading(plan.runbook, planned) for planned in plan.steps))


def _only_reading(runbook: Runbook, planned: PlannedStep) -> PlannedStep:
    step = planned.step
    if step.safety is Safety.READ_ONLY:
        return planned
    does = "loads the device" if step.safety is Safety.LOADS_DEVICE else "changes the host"
    return PlannedStep(
        step, f"{does}, which a look never does; `runbook run {runbook.id} --step {step.id}` runs it"
    )
