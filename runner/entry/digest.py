"""The digest of a step: what must be equal for its numbers to be comparable."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from runner.entry.model import Phase, Runbook, Step
from runner.vocabulary.versions import method_version

# What a digest of record schemas 1 to 3 covers of a step. Stored digests depend on this list, so it never changes; an
# attribute that `Step` has since is not part of it.
_BEFORE_SCHEMA_4 = {"id", "phase", "command", "gpus", "nodes", "timeout", "safety", "needs", "slow"}


def current_digest(runbook: Runbook, step: Step) -> str:
    """The digest of a number that is taken now."""
    return step_digest(runbook, step, _methods_now(step))


def current_digests(runbook: Runbook) -> dict[str, str]:
    """The current digest of every step of an entry, by id: one by one, a hundred steps take a hundred times as long."""
    digests: dict[str, str] = {}
    earlier: dict[Phase, list[str]] = {phase: [] for phase in Phase}
    for step in runbook.steps:
        fixes = earlier[Phase.FIX] if step.phase is Phase.VERIFY else []
        earlier[step.phase].append(step.command)
        digests[step.id] = commands_digest([*fixes, *earlier[step.phase]], _methods_now(step))
    return digests


def is_current(digest: str, runbook: Runbook, step: Step) -> bool:
    """Whether a result with this digest is of the current step; else its numbers are stale.

    A record of schema 1 to 3 can have a result whose digest could not be brought to the current form when the record
    was read (`runner.record.migrations`). That digest is compared in its own form.
    """
    return digest == current_digest(runbook, step) or digest == digest_before_schema_4(
        runbook, step, _methods_now(step)
    )


def step_digest(runbook: Runbook, step: Step, methods: Mapping[str, int]) -> str:
    """Digest of a step's command, the commands of the steps whose environment it inherits, and its probes' methods.

    Args:
        runbook: the entry, for the steps whose environment the step inherits.
        step: the step.
        methods: method versions by probe; a probe that it does not list is left out.

    Returns:
        16 hexadecimal digits.
    """
    commands = [one.command for one in (*runbook.inherits(step), step)]
    return commands_digest(commands, {name: methods[name] for name in step.probes if name in methods})


def commands_digest(commands: Sequence[str], methods: Mapping[str, int]) -> str:
    """Digest of the commands that a step depends on, its own last, and of its probes' method versions."""
    return _hashed({"commands": list(commands), "methods": dict(methods)})


def digest_before_schema_4(runbook: Runbook, step: Step, methods: Mapping[str, int]) -> str:
    """The digest as records of schema 1 to 3 hold it; arguments and result as for `step_digest`.

    It also covers attributes that do not change a number, such as `timeout`.
    """
    steps = (*runbook.inherits(step), step)
    return _hashed(
        {
            "steps": [one.model_dump(mode="json", include=_BEFORE_SCHEMA_4) for one in steps],
            "methods": sorted((name, methods[name]) for name in step.probes if name in methods),
        }
    )


def _methods_now(step: Step) -> dict[str, int]:
    versions = {name: method_version(name) for name in step.probes}
    return {name: version for name, version in versions.items() if version is not None}


def _hashed(parts: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
