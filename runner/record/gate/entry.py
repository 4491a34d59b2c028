"""Checks a record against its entry and the methods of its probes, both at its commit."""

from collections.abc import Iterator, Sequence

from runner.base.errors import InputError
from runner.entry.model import Runbook, Safety, Step
from runner.entry.plan import Request, asked_steps, explained_by_visibility, why_not
from runner.record.commits import Commit
from runner.record.gate.words import AGAIN, quoted
from runner.record.judge import failed_by_expectation
from runner.record.migrations import migrate
from runner.record.model import Outcome, Record, StepResult, StepStatus, StoredVerdict
from runner.record.outcomes import judge_run
from runner.record.redaction.redact import redact_text
from runner.vocabulary import PROBES

# The first schema whose entries name a proof; in earlier schemas Verify alone proved a fix.
_WITH_PROOF = 3
# The first schema whose digests cover only commands and method versions.
_WITH_CURRENT_DIGESTS = 4
_ANY_NODES = 1 << 20


def entry_problems(record: Record, commit: Commit) -> Iterator[str]:
    """Differences between the record and what this commit's entry implies on its machine.

    An entry that the current format cannot parse yields no problems.
    """
    reference = record.runbook
    if reference.id not in commit.texts:
        yield f"is of entry {quoted(reference.id)}, which its commit does not have; {AGAIN}"
        return
    runbook = commit.entry(reference.id)
    if runbook is None:
        return
    if (reference.number, reference.title) != (runbook.head.number, runbook.head.title):
        yield f"has a different entry number or title than its commit; {AGAIN}"
    yield from _asked_problems(record, runbook)
    steps = {step.id: step for step in runbook.steps}
    ran = (steps.get(one.id) for one in record.steps if one.status is not StepStatus.SKIPPED)
    if record.members and not any(step.nodes > 1 for step in ran if step):
        yield f"claims to be a run over several nodes, but no multi-node step ran; {AGAIN}"
    for place, result in enumerate(record.steps):
        step = steps.get(result.id)
        if step is not None:
            earlier = record.steps[:place]
            for message in _step_problems(record, commit, runbook, step, result, earlier):
                yield f"step {result.id}: {message}"
    yield from _judged_problems(record, runbook)


def _asked_problems(record: Record, runbook: Runbook) -> Iterator[str]:
    options = record.options
    try:
        asked = asked_steps(
            runbook, Request(phases=options.phases, steps=options.steps, reproduce=options.reproduce)
        )
    except InputError as error:
        yield f"requests something that its entry does not have ({error}); {AGAIN}"
        return
    wanted, found = [step.id for step in asked], [step.id for step in record.steps]
    if wanted == found:
        return
    foreign = [step for step in found if step not in wanted]
    missing = [step for step in wanted if step not in found]
    if foreign:
        what = f"has step {foreign[0]}, which"
        yield f"{what} was not requested or does not exist in its entry; {AGAIN}"
    elif missing:
        yield f"lacks step {missing[0]}, which was requested; {AGAIN}"
    else:
        yield f"does not have its steps in the order of the entry; {AGAIN}"


def _step_problems(
    record: Record,
    commit: Commit,
    runbook: Runbook,
    step: Step,
    result: StepResult,
    earlier: Sequence[StepResult],
) -> Iterator[str]:
    if result.phase is not step.phase:
        yield f"has phase {result.phase}, but is a step of {step.phase}; {AGAIN}"
    if result.command not in {step.command, redact_text(step.command)}:
        yield f"has a different command than its commit's entry; {AGAIN}"
    if commit.methods and not _has_its_digest(record, result, commit.digests_of(runbook, step)):
        yield f"has a different digest than its commit's entry; {AGAIN}"
    version = commit.methods.get(result.probe or "")
    if version is not None and result.method_version != version:
        yield (
            f"has method version {result.method_version} of {result.probe}, but its commit has {version}; {AGAIN}"
        )
    ran = result.status is not StepStatus.SKIPPED or result.exit_status is not None
    if ran and result.gpus_used != step.gpus:
        yield f"used {result.gpus_used} GPUs, but its entry specifies {step.gpus}; {AGAIN}"
    unmet = any(one.id in step.needs and one.status is not StepStatus.PASSED for one in earlier)
    if ran:
        blocked = why_not(step, record.machine, _request(record, _ANY_NODES))
        if blocked or unmet:
            yield f"has run, but was blocked ({blocked or 'a step that it needs has not passed'}); {AGAIN}"
        yield from _bound_problems(record, runbook, result, earlier)
    elif not (
        unmet
        or result.left_out
        or _may_be_skipped(record, step, result.reason, earlier, _used(record, runbook))
    ):
        yield f"was skipped, but was not blocked; {AGAIN}"


def _has_its_digest(record: Record, result: StepResult, digests: tuple[str, str]) -> bool:
    """Whether a result has the digest of its step in the form of its record's schema."""
    now, earlier = digests
    if record.schema_version < _WITH_CURRENT_DIGESTS:
        return result.digest == earlier
    # Where a migration cannot tell the current form, a record that was read and stored again has the earlier one.
    return result.digest == now or (result.digest == earlier and _stays_when_migrated(record, result))


def _stays_when_migrated(record: Record, result: StepResult) -> bool:
    before = record.model_copy(update={"schema_version": _WITH_CURRENT_DIGESTS - 1})
    return migrate(before).steps[record.steps.index(result)].digest == result.digest


def _request(record: Record, nodes: int) -> Request:
    return Request(allow=record.options.allow, slow=record.options.slow, nodes=nodes)


def _used(record: Record, runbook: Runbook) -> int:
    """The most GPUs that a step of the run used through CUDA; a step that only reads asks the driver."""
    through_cuda = {step.id for step in runbook.steps if step.safety is not Safety.READ_ONLY}
    return max((one.gpus_used for one in record.steps if one.id in through_cuda), default=0)


def _may_be_skipped(
    record: Record, step: Step, reason: str | None, earlier: Sequence[StepResult], used: int = 0
) -> bool:
    """Whether the record, or a missing compile prerequisite on its host, can explain why the step was skipped."""
    if why_not(step, record.machine, _request(record, max(1, len(record.members)))):
        return True
    if explained_by_visibility(reason, step, len(record.machine.gpus), used):
        return True
    compiles = any(PROBES[name].compiles is not None for name in step.probes if name in PROBES)
    return compiles or any(one.status.broken for one in earlier)


def _bound_problems(
    record: Record, runbook: Runbook, result: StepResult, earlier: Sequence[StepResult]
) -> Iterator[str]:
    fell_back = result.fallback_reason is not None and not result.fallback_asked
    if result.status not in {StepStatus.PASSED, StepStatus.FAILED} or fell_back:
        return
    missed = failed_by_expectation(runbook, result, earlier, record.machine)
    if missed is not None and result.status is StepStatus.PASSED:
        yield f"has the status passed, but failed: {missed}; {AGAIN}"
    if missed is None and result.status is StepStatus.FAILED:
        yield f"has the status failed, but missed no expectation; {AGAIN}"


def _judged_problems(record: Record, runbook: Runbook) -> Iterator[str]:
    found, verdicts = judge_run(runbook, record.steps, record.machine)
    if [verdict.id for verdict in record.verdicts] != [verdict.id for verdict in verdicts]:
        yield f"does not have a verdict for each expectation of its entry; {AGAIN}"
    else:
        for stored, judged in zip(record.verdicts, verdicts, strict=True):
            if stored not in {judged, _redacted(judged)}:
                yield (
                    f"has the verdict {stored.verdict} ({quoted(stored.value)}) on {stored.id}, but its steps give "
                    f"{judged.verdict} ({quoted(judged.value)}); {AGAIN}"
                )
    if record.outcome is None:
        return
    wanted, unproved = found.outcome, found.unproved
    if wanted is Outcome.DRILL_PASSED and _before_proofs(record, runbook):
        wanted, unproved = Outcome.FIX_PROVED, ()
    if record.outcome is not wanted:
        yield f"has the outcome {record.outcome}, but its steps give {wanted}; {AGAIN}"
    elif record.unproved not in {unproved, tuple(map(redact_text, unproved))}:
        yield f"has different reasons for an unproved fix than its steps give; {AGAIN}"


def _before_proofs(record: Record, runbook: Runbook) -> bool:
    return record.schema_version < _WITH_PROOF and not runbook.head.proof


def _redacted(verdict: StoredVerdict) -> StoredVerdict:
    return verdict if verdict.note is None else verdict.model_copy(update={"note": redact_text(verdict.note)})
