"""Migrations of records that earlier versions wrote. Pure.

A record of an earlier schema also fits the current one, so that a migration changes a record and not its JSON: reading
a folder of such records takes no second validation.
"""

from collections.abc import Callable, Mapping, Sequence

from runner.entry.digest import commands_digest
from runner.entry.model import Phase, probes_in
from runner.record.model import Record, StepResult
from runner.record.redaction.placeholder import PLACEHOLDER


def migrate(record: Record) -> Record:
    """The record in the current schema."""
    for version, migration in _MIGRATIONS.items():
        if record.schema_version < version:
            record = migration(record).model_copy(update={"schema_version": version})
    return record


def _digests_of_commands(record: Record) -> Record:
    """Brings the digest of each step to the form that covers only commands and method versions.

    A record holds all that this digest covers: a run also holds every step whose environment one of its steps
    inherits, and all its probes are of one commit. There are two exceptions: a command that was redacted, and a probe
    without a document in this record. There the digest stays as it is, and `is_current` compares it in its own form:
    that keeps the state of the step, but a changed attribute, such as `timeout`, makes its numbers stale as it did
    before.
    """
    steps = record.steps
    methods = {step.probe: step.method_version for step in steps if step.probe}
    digests = [_digest(step, steps[:place], methods) for place, step in enumerate(steps)]
    migrated = [
        step.model_copy(update={"digest": digest}) for step, digest in zip(steps, digests, strict=True)
    ]
    return record.model_copy(update={"steps": tuple(migrated)})


def _digest(step: StepResult, earlier: Sequence[StepResult], methods: Mapping[str, int | None]) -> str:
    inherited = {step.phase, Phase.FIX} if step.phase is Phase.VERIFY else {step.phase}
    commands = [one.command for one in (*earlier, step) if one.phase in inherited]
    of_step = {name: version for name in probes_in(step.command) if (version := methods.get(name))}
    if of_step.keys() < {*probes_in(step.command)} or any(map(PLACEHOLDER.search, commands)):
        return step.digest
    return commands_digest(commands, of_step)


def _no_step_simulated(record: Record) -> Record:
    """Earlier schemas knew only runs that were simulated as a whole."""
    steps = [step.model_copy(update={"simulated": False}) for step in record.steps]
    return record.model_copy(update={"steps": tuple(steps)})


# By the schema that each leads to; schemas 2 and 3 only added fields.
_MIGRATIONS: Mapping[int, Callable[[Record], Record]] = {4: _digests_of_commands, 5: _no_step_simulated}
