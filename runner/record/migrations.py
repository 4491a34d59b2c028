"""Migrations of the content of records that earlier versions wrote. Pure.

A migration receives the parsed JSON of a sound record of the schema before its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

from runner.entry.digest import commands_digest
from runner.entry.model import Phase, probes_in
from runner.record.redaction.redact import PLACEHOLDER

_Json = Mapping[str, Any]


def migrate(content: _Json) -> _Json:
    """The content of a record in the current schema."""
    for version, migration in _MIGRATIONS.items():
        if content["schema_version"] < version:
            content = {**migration(content), "schema_version": version}
    return content


def _digests_of_commands(content: _Json) -> _Json:
    """Brings the digest of each step to the form that covers only commands and method versions.

    A record holds all that this digest covers: a run also holds every step whose environment one of its steps
    inherits, and all its probes are of one commit. There are two exceptions: a command that was redacted, and a probe
    without a document in this record. There the digest stays as it is, and `is_current` compares it in its own form:
    that keeps the state of the step, but a changed attribute, such as `timeout`, makes its numbers stale as it did
    before.
    """
    steps = content.get("steps", [])
    methods = {step["probe"]: step["method_version"] for step in steps if step.get("probe")}
    digests = [_digest(step, steps[:place], methods) for place, step in enumerate(steps)]
    return {
        **content,
        "steps": [{**step, "digest": digest} for step, digest in zip(steps, digests, strict=True)],
    }


def _digest(step: _Json, earlier: list[_Json], methods: Mapping[str, int | None]) -> str:
    inherited = {step["phase"], Phase.FIX} if step["phase"] == Phase.VERIFY else {step["phase"]}
    commands = [one["command"] for one in (*earlier, step) if one["phase"] in inherited]
    of_step = {name: version for name in probes_in(step["command"]) if (version := methods.get(name))}
    if of_step.keys() < {*probes_in(step["command"])} or any(map(PLACEHOLDER.search, commands)):
        return str(step["digest"])
    return commands_digest(commands, of_step)


# By the schema that each leads to; schemas 2 and 3 only added fields.
_MIGRATIONS: Mapping[int, Callable[[_Json], _Json]] = {4: _digests_of_commands}
