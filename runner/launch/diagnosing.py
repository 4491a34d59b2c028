"""Looks at this node with every entry's read-only Diagnose steps, side by side, under one deadline."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from runner.entry.model import Phase, Runbook, Safety
from runner.errors import InputError, RunbookError
from runner.evidence.diagnosis import Diagnosis, NotLooked, State, diagnose_entry, rank
from runner.hardware.machine import Machine
from runner.launch.block import GRACE_S
from runner.launch.command import CommandResult, Ending, not_started, run_block
from runner.launch.local import SECONDS, run_plan
from runner.launch.side_by_side import give_up, side_by_side
from runner.placed import PlacedFileError, placed_file
from runner.plan import Plan, PlannedStep, Request, make_plan

# What a step finds the process in whose environment is to be judged (`runner.probes.judged`).
JUDGED_PID = "RUNBOOK_JUDGED_PID"
_MOST_AT_ONCE = 4
# What a killed process may take to be gone, in seconds: a step that only reads holds no memory of a device.
_PATIENCE_S = 5.0
# What it takes at most, once the deadline has come, until every step has ended or been given up.
_ENDING_S = 2 * GRACE_S + _PATIENCE_S + 10.0


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

    What could not be ended is left, and an entry that gives no answer at all is not looked at: a look is over a few
    seconds after its deadline whatever its steps do.
    """
    stopped = Event()
    looks = side_by_side(
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
    """Wait for looks that were stopped, as long as their processes may take to end."""
    # A second interrupt means now.
    with contextlib.suppress(KeyboardInterrupt):
        give_up(looks, _ENDING_S)


def _no_answer(runbook: Runbook) -> Diagnosis:
    """Of an entry whose look did not come back: something in this process itself waits."""
    steps = [step for step in runbook.steps if step.phase is Phase.DIAGNOSE]
    why = "gave no answer by the look's overall deadline"
    blind = tuple(NotLooked(step.id, why, hindered=True) for step in steps)
    head = runbook.head
    return Diagnosis(head.id, head.number, head.title, State.UNKNOWN, (), (), (), blind)


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
        return run_block(
            command,
            environment=given,
            timeout=seconds,
            cwd=cwd,
            stopped=stopped.is_set,
            patience=_PATIENCE_S,
        )

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
    # Unreadable GPUs are no reason to call a node fine: what needed them could not look.
    hindered = {p.step.id for p in plan.steps if machine.gpu_error and p.step.gpus}
    return diagnose_entry(runbook, list(results), hindered)


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
