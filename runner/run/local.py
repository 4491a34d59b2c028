"""Runs a plan on this node, step by step, and yields each result as it ends."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from runner.base.bounds import RESULTS_BYTES
from runner.base.errors import DocumentError
from runner.entry.digest import current_digest
from runner.entry.model import Phase, Step
from runner.entry.plan import Plan
from runner.hardware.machine import Machine
from runner.hardware.visible import INSTALLED_GPUS, USABLE_GPUS
from runner.record.documents import read_document
from runner.record.judge import failed_by_expectation, judge_step
from runner.record.last_words import last_words
from runner.record.model import Document, StepResult, StepStatus
from runner.record.redaction.redact import host_secrets, redact_step
from runner.record.writing import results_bytes
from runner.run.command import CommandResult, Ending, not_started, run_block
from runner.run.pace import NoTimeLimit, Pace, Turn
from runner.run.programs import with_our_programs

# The variable with the seconds that a step may use; probes size their work by it (`runner.kit.budget`).
SECONDS = "RUNBOOK_SECONDS"


class BlockRunner(Protocol):
    """Runs one bash block: `runner.run.command.run_block`, or a replacement in tests."""

    def __call__(
        self, command: str, *, environment: Mapping[str, str], timeout: float, cwd: Path
    ) -> CommandResult:
        """Run the block to its end or its deadline (seconds)."""


@dataclass
class _Environments:
    """The environment of each phase: the caller's, then with the exports of its successful blocks.

    `always` holds the variables of the run, which every step gets, whatever earlier blocks exported.
    """

    caller: Mapping[str, str]
    always: Mapping[str, str]
    now: dict[Phase, Mapping[str, str]] = field(default_factory=dict)

    def of(self, phase: Phase) -> Mapping[str, str]:
        start = self.now.get(Phase.FIX, self.caller) if phase is Phase.VERIFY else self.caller
        return {**self.now.get(phase, start), **self.always}


def run_plan(
    plan: Plan,
    machine: Machine,
    *,
    run_id: str,
    root: Path,
    environment: Mapping[str, str],
    scratch: Path,
    on_start: Callable[[Step, Turn], None],
    run: BlockRunner = run_block,
    pace: Pace | None = None,
) -> Iterator[StepResult]:
    """Yield one redacted result per planned step, including skipped ones, each as soon as it is known.

    Unredacted output of a step goes nowhere: not to a progress line, a summary, a record, or a later step's verdict.
    Only the environment that a block exports is passed on unchanged.

    Args:
        plan: what to run, and what to skip.
        machine: this node.
        run_id: id of the run, which every step gets in RUNBOOK_RUN_ID.
        root: the folder in which blocks run.
        environment: the caller's environment.
        scratch: an empty folder for the documents that steps write.
        on_start: called before a step runs, with its deadline.
        run: runs a block.
        pace: sets the deadline of each step; default: the step's own.
    """
    always = {
        "RUNBOOK_RUN_ID": run_id,
        "RUNBOOK_PRESET": plan.preset,
        USABLE_GPUS: str(plan.gpus),
        INSTALLED_GPUS: str(len(machine.gpus)),
    }
    environments = _Environments(with_our_programs(environment, scratch), always)
    pace = pace or NoTimeLimit()
    done: list[StepResult] = []
    stuck: Step | None = None
    for planned in plan.steps:
        step, why_not = planned.step, planned.skip or _unmet(planned.step, done, stuck)
        turn = pace.turn(step) if why_not is None else None
        if turn is None or turn.left_out is not None:
            reason = why_not if turn is None else turn.left_out
            left_out = turn is not None or (planned.skip is None and _follows_left_out(step, done))
            result = redact_step(_skipped(plan, step, reason, left_out=left_out), host_secrets())
        else:
            on_start(step, turn)
            result, left = _run_step(plan, step, turn, machine, done, root, scratch, environments, run)
            stuck = step if left else stuck
        pace.ended(result)
        done.append(result)
        yield result


def _unmet(step: Step, done: Sequence[StepResult], stuck: Step | None) -> str | None:
    """Why the next step does not run; None if it runs."""
    if any(result.status is StepStatus.INTERRUPTED for result in done):
        return "the run was interrupted"
    if stuck is not None:
        # A stuck process disturbs every measurement, and the next step would probably get stuck too.
        return f"the run was stopped because processes of {stuck.id} could not be killed"
    ended = {result.id: result.status for result in done}
    for needed in step.needs:
        status = ended.get(needed)
        if status is not StepStatus.PASSED:
            return f"needs {needed}, which {'did not run' if status is None else f'ended as {status.value}'}"
    return None


def _follows_left_out(step: Step, done: Sequence[StepResult]) -> bool:
    return any(result.left_out for result in done if result.id in step.needs)


def _skipped(plan: Plan, step: Step, reason: str | None, *, left_out: bool) -> StepResult:
    return StepResult(
        id=step.id,
        phase=step.phase,
        command=step.command,
        digest=current_digest(plan.runbook, step),
        status=StepStatus.SKIPPED,
        reason=reason,
        left_out=left_out,
    )


def _run_step(
    plan: Plan,
    step: Step,
    turn: Turn,
    machine: Machine,
    done: Sequence[StepResult],
    root: Path,
    scratch: Path,
    environments: _Environments,
    run: BlockRunner,
) -> tuple[StepResult, bool]:
    """The result of the step, and whether processes of it survived."""
    started = datetime.now(UTC)
    try:
        result_file = _place_of_result(scratch, step)
    except OSError as error:
        result_file, ran = scratch, not_started(f"cannot create a folder for its result: {error}")
    else:
        ran = run(
            step.command,
            environment={
                **environments.of(step.phase),
                "RUNBOOK_RESULT": str(result_file),
                SECONDS: f"{turn.work_s:.6g}",
            },
            timeout=turn.deadline_s,
            cwd=root,
        )
    room = RESULTS_BYTES - sum(map(results_bytes, done))
    document, problem = _document(result_file, ran, room)
    secrets = host_secrets()
    said = last_words(ran.stderr.text, secrets) if ran.exit_status else None
    status, reason = judge_step(ran.ending.value, ran.exit_status, document, problem, said)
    cut = turn.cut if ran.ending is Ending.TIMEOUT and ran.problem is None else None
    reason = cut or reason
    result = StepResult(
        id=step.id,
        phase=step.phase,
        command=step.command,
        digest=current_digest(plan.runbook, step),
        status=status,
        reason=reason,
        left_out=cut is not None,
        exit_status=ran.exit_status,
        started_at=started,
        duration_s=ran.duration_s,
        gpus_used=step.gpus,
        stdout_tail=ran.stdout.text,
        stdout_dropped_bytes=ran.stdout.dropped_bytes,
        stderr_tail=ran.stderr.text,
        stderr_dropped_bytes=ran.stderr.dropped_bytes,
        processes_ended=ran.processes_ended,
        **_from_document(document),
    )
    # Before it is judged by the entry's bounds, so that verdicts use the recorded text.
    result = redact_step(result, secrets)
    if status is StepStatus.PASSED:
        missed = failed_by_expectation(plan.runbook, result, done, machine)
        if missed is not None:
            result = result.model_copy(update={"status": StepStatus.FAILED, "reason": missed})
    if ran.environment is not None:
        environments.now[step.phase] = ran.environment
    return result, ran.stuck


def _place_of_result(scratch: Path, step: Step) -> Path:
    # In a new folder, so that earlier steps cannot have written or removed this result.
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=scratch)) / f"{step.id}.json"


def _document(path: Path, ran: CommandResult, room: int) -> tuple[Document | None, str | None]:
    """The document of the step, and why it is invalid (or why nothing started)."""
    if ran.ending is not Ending.EXITED or ran.problem is not None:
        # A document that was written before the deadline is incomplete: its numbers are not kept.
        return None, ran.problem
    try:
        return read_document(path, room), None
    except DocumentError as error:
        return None, str(error)


def _from_document(document: Document | None) -> dict[str, object]:
    if document is None:
        return {}
    return {
        "probe": document.probe,
        "method_version": document.method_version,
        "requested": document.requested,
        "effective": document.effective,
        "fallback_reason": document.fallback_reason,
        "fallback_asked": document.fallback_asked,
        "details": document.details,
        "measurements": document.measurements,
    }
