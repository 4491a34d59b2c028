"""The conditions of a run besides its options, and the conditions in which runs differ. Pure."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.entry.model import probes_in
from runner.hardware.machine import Machine
from runner.record.model import Record, StepStatus
from runner.record.redaction.placeholder import PLACEHOLDER

# Components that a number depends on, the most likely cause of a change first.
VERSIONS = ("driver", "torch", "cuda", "nccl", "python", "kernel", "os", "cpu")


@dataclass(frozen=True, slots=True)
class RunConditions:
    """The conditions of a run besides its options.

    Attributes:
        versions: by name, all of `VERSIONS`; `none` for a missing component.
        digests: by step that ran.
        commands: by step that ran.
        unsure: the steps whose digest can be of an earlier form, because the record does not tell the current one
            (`runner.record.migrations`).
        allow: what the caller allowed.
    """

    versions: Mapping[str, str]
    digests: Mapping[str, str]
    commands: Mapping[str, str]
    unsure: frozenset[str]
    node: str
    allow: tuple[str, ...]


def conditions_of(record: Record) -> RunConditions:
    """The conditions of this run."""
    # A step that was skipped explains no difference.
    ran = [step for step in record.steps if step.status is not StepStatus.SKIPPED]
    told = {step.probe for step in record.steps}
    redacted = any(PLACEHOLDER.search(step.command) for step in record.steps)
    return _shared(
        _versions(record.machine),
        tuple((step.id, step.digest) for step in ran),
        tuple((step.id, step.command) for step in ran),
        frozenset(step.id for step in ran if redacted or not told.issuperset(probes_in(step.command))),
        record.node_alias,
        record.options.allow,
    )


_Pairs = tuple[tuple[str, str], ...]


def _versions(machine: Machine) -> _Pairs:
    return tuple((name, getattr(machine, name) or "none") for name in VERSIONS)


# Most runs of a long history have equal conditions, and share one object.
@functools.lru_cache(maxsize=1024)
def _shared(
    versions: _Pairs,
    digests: _Pairs,
    commands: _Pairs,
    unsure: frozenset[str],
    node: str,
    allow: tuple[str, ...],
) -> RunConditions:
    return RunConditions(dict(versions), dict(digests), dict(commands), unsure, node, allow)


_Runs = Sequence[RunConditions]


def version_changes(earlier: _Runs, later: _Runs) -> Iterator[tuple[str, str, str]]:
    """(name, last earlier version, last later version) of each component that has no version in common."""
    for name in VERSIONS:
        had, has = ([run.versions[name] for run in runs] for runs in (earlier, later))
        if not set(had) & set(has):
            yield name, had[-1], has[-1]


def differences(earlier: _Runs, later: _Runs) -> tuple[str, ...]:
    """Conditions that every later run has and no earlier run had, the most likely cause of a change first.

    Versions (`driver 570.1 → 580.95`), steps that have changed, allowances, nodes.

    Args:
        earlier: one run or more, the oldest first.
        later: one run or more, the oldest first.
    """
    found = [f"{name} {old} → {new}" for name, old, new in version_changes(earlier, later)]
    changed = [step for step in later[-1].digests if _step_changed(step, earlier, later)]
    if changed:
        found.append(f"changed steps ({', '.join(changed)})")
    if not {run.allow for run in earlier} & {run.allow for run in later}:
        old, new = (", ".join(runs[-1].allow) or "nothing" for runs in (earlier, later))
        found.append(f"allowed {old} → {new}")
    nodes = {run.node for run in later}
    if not nodes & {run.node for run in earlier}:
        found.append(f"another node ({', '.join(sorted(nodes))})")
    return tuple(found)


def _step_changed(step: str, earlier: _Runs, later: _Runs) -> bool:
    ran_earlier, ran_later = ([run for run in runs if step in run.digests] for runs in (earlier, later))
    had, has = ({run.digests[step] for run in runs} for runs in (ran_earlier, ran_later))
    if not had or had & has:
        return False
    if not any(step in run.unsure for run in (*ran_earlier, *ran_later)):
        return True
    # Digests of two forms differ even where nothing has changed.
    return not {run.commands[step] for run in ran_earlier} & {run.commands[step] for run in ran_later}
