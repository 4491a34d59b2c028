"""Runs a plan on this node, step by step, and yields each result as it ends."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from runner.base.bounds import RESULTS_BYTES
from runner.base.errors import DocumentError
from runner.entry.digest import current_digests
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
from runner.run.command import BlockEnding, CommandResult, block_not_started, run_block
from runner.run.pace import NoTimeLimit, Pace, TimeSlot
from runner.run.programs import with_our_programs

# The variable with the seconds that a step may use; probes size their work by it (`runner.kit.budget`).
SECONDS = "RUNBOOK_SECONDS"
# The fields of a document that its step's result has too.
_FROM_DOCUMENT = (
    "probe", "method_version", "requested", "effective", "fallback_reason", "fallback_asked", "details",
    "measurements", "simulated",
)  # fmt: skip


class BlockRunner(Protocol):
    """Runs one bash block: `runner.run.command.run_block`, or a replacement in tests."""

    def __call__(
        self, command: str, *, environment: Mapping[str, str], timeout: float, cwd: Path
    ) -> CommandResult:
        """Run the block to its end or its deadline (seconds)."""


@dataclass(frozen=True)
class RunContext:
    """Where and how the blocks of a run are started.

    Attributes:
        machine: this node.
        run_id: id of the run, which every step gets in RUNBOOK_RUN_ID.
        root: the folder in which blocks run.
        environment: the caller's environment.
        scratch: an empty folder for the documents that steps write.
        run: runs a block.
    """

    machine: Machine
    run_id: str
    root: Path
    environment: Mapping[str, str]
    scratch: Path
    run: BlockRunner = run_block


def run_plan(
    plan: Plan, context: RunContext, on_start: Callable[[Step, TimeSlot], None], pace: Pace | None = None
) -> Iterator[StepResult]:
    """Yield one redacted result per planned step, including skipped ones, each as soon as it is known.

    Unredacted output of a step goes nowhere: not to a progress line, a summary, a record, or a later step's verdict.
    Only the environment that a block exports is passed on unchanged.

    Args:
        plan: what to run, and what to skip.
        context: where and how to run it.
        on_start: called before a step runs, with its deadline.
        pace: sets the deadline of each step; default: the step's own.
    """
    run, pace = _PlanRun(plan, context), pace or NoTimeLimit()
    for planned in plan.steps:
        step, why_not = planned.step, planned.skip or run.unmet(planned.step)
        slot = pace.slot(step) if why_not is None else None
        if slot is None:
            follows = planned.skip is None and run.follows_left_out(step)
            result = run.skipped(step, why_not, left_out=follows)
        elif slot.left_out is not None:
            result = run.skipped(step, slot.left_out, left_out=True)
        else:
            on_start(step, slot)
            result = run.ran(step, slot)
        pace.ended(result)
        run.add(result)
        yield result


class _PlanRun:
    """A run of a plan: the results so far, and the environments with which its next steps start."""

    def __init__(self, plan: Plan, context: RunContext) -> None:
        self._plan, self._context = plan, context
        self._secrets = host_secrets()
        self._digests = current_digests(plan.runbook)
        self._done: dict[str, StepResult] = {}
        self._stored_bytes = 0
        self._stuck: Step | None = None
        self._caller = with_our_programs(context.environment, context.scratch)
        # The environment after the successful blocks of each phase.
        self._exported: dict[Phase, Mapping[str, str]] = {}
        # What every step gets, whatever earlier blocks exported.
        self._always = {
            "RUNBOOK_RUN_ID": context.run_id,
            "RUNBOOK_PRESET": plan.preset,
            USABLE_GPUS: str(plan.gpus),
            INSTALLED_GPUS: str(len(context.machine.gpus)),
        }

    def add(self, result: StepResult) -> None:
        self._done[result.id] = result
        self._stored_bytes += results_bytes(result)

    def unmet(self, step: Step) -> str | None:
        """Why the next step does not run; None if it runs."""
        if any(result.status is StepStatus.INTERRUPTED for result in self._done.values()):
            return "the run was interrupted"
        if self._stuck is not None:
            # A stuck process disturbs every measurement, and the next step would probably get stuck too.
            return f"the run was stopped because processes of {self._stuck.id} could not be killed"
        for needed in step.needs:
            result = self._done.get(needed)
            if result is None or result.status is not StepStatus.PASSED:
                how = "did not run" if result is None else f"ended as {result.status.value}"
                return f"needs {needed}, which {how}"
        return None

    def follows_left_out(self, step: Step) -> bool:
        return any(needed in self._done and self._done[needed].left_out for needed in step.needs)

    def skipped(self, step: Step, reason: str | None, *, left_out: bool) -> StepResult:
        result = StepResult(
            **self._identity(step), status=StepStatus.SKIPPED, reason=reason, left_out=left_out
        )
        return redact_step(result, self._secrets)

    def _identity(self, step: Step) -> dict[str, Any]:
        return {
            "id": step.id,
            "phase": step.phase,
            "command": step.command,
            "digest": self._digests[step.id],
        }

    def ran(self, step: Step, slot: TimeSlot) -> StepResult:
        """Run the step; its result."""
        started = datetime.now(UTC)
        ran, document, problem = self._run(step, slot)
        said = last_words(ran.stderr.text, self._secrets) if ran.exit_status else None
        status, reason = judge_step(ran.ending.value, ran.exit_status, document, problem, said)
        cut = slot.cut if ran.ending is BlockEnding.TIMEOUT and ran.problem is None else None
        result = StepResult(
            **self._identity(step),
            status=status,
            reason=cut or reason,
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
            **({} if document is None else {name: getattr(document, name) for name in _FROM_DOCUMENT}),
        )
        # Before it is judged by the entry's bounds, so that verdicts use the recorded text.
        result = redact_step(result, self._secrets)
        if status is StepStatus.PASSED:
            done = list(self._done.values())
            missed = failed_by_expectation(self._plan.runbook, result, done, self._context.machine)
            if missed is not None:
                result = result.model_copy(update={"status": StepStatus.FAILED, "reason": missed})
        if ran.environment is not None:
            self._exported[step.phase] = ran.environment
        if ran.stuck:
            self._stuck = step
        return result

    def _run(self, step: Step, slot: TimeSlot) -> tuple[CommandResult, Document | None, str | None]:
        """The end of the block, the step's document, and why that is invalid (or why nothing started)."""
        context = self._context
        try:
            # In a new folder, so that earlier steps cannot have written or removed this result.
            context.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            result_file = Path(tempfile.mkdtemp(dir=context.scratch)) / f"{step.id}.json"
        except OSError as error:
            problem = f"cannot create a folder for its result: {error}"
            return block_not_started(problem), None, problem
        own = {"RUNBOOK_RESULT": str(result_file), SECONDS: f"{slot.work_s:.6g}"}
        ran = context.run(
            step.command,
            environment={**self._start(step.phase), **self._always, **own},
            timeout=slot.deadline_s,
            cwd=context.root,
        )
        if ran.ending is not BlockEnding.EXITED or ran.problem is not None:
            # A document that was written before the deadline is incomplete: its numbers are not kept.
            return ran, None, ran.problem
        try:
            return ran, read_document(result_file, RESULTS_BYTES - self._stored_bytes), None
        except DocumentError as error:
            return ran, None, str(error)

    def _start(self, phase: Phase) -> Mapping[str, str]:
        """The environment with which a step of this phase starts: Verify goes on from Fix."""
        start = self._exported.get(Phase.FIX, self._caller) if phase is Phase.VERIFY else self._caller
        return self._exported.get(phase, start)
