"""Outcomes of runs, judged by the current entries, and the current result of an entry on a machine class. Pure.

A run is compared only with runs of the same scope: a run of Diagnose alone does not contradict a proof.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from runner.entry.model import Phase, Runbook
from runner.hardware.machine import Machine
from runner.history.conditions import RunConditions, conditions_of
from runner.record.model import Options, Outcome, Record, StepResult, Verdict
from runner.record.outcomes import Judged, judge_run
from runner.record.simulated import was_simulated
from runner.sizing.presets import default_preset

JudgedRun = tuple[Record, Judged]
RanStep = tuple[Record, StepResult]
_ISSUE_IS_HERE = 1
_DECIDED = frozenset({Verdict.MET, Verdict.MISSED})


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome of one run.

    Attributes:
        runbook: the current entry.
        scope: the run's options without its allowances; runs of one scope are comparable.
        at_home: whether the preset is the default of the class.
        verdicts: verdicts of the deciding expectations that were met or missed, by id.
    """

    runbook: Runbook
    machine_class: str
    campaign: str | None
    run_id: str
    when: datetime
    scope: Options
    at_home: bool
    judged: Judged
    verdicts: Mapping[str, Verdict]
    conditions: RunConditions

    @property
    def moment(self) -> tuple[datetime, str]:
        """Sort key, oldest first."""
        return self.when, self.run_id

    @property
    def node(self) -> str:
        """The node that ran it."""
        return self.conditions.node

    @property
    def where(self) -> str:
        """The class, with the preset if it is not the default of the class."""
        return self.machine_class if self.at_home else f"{self.machine_class} at preset {self.scope.preset}"


def by_any_id(runbooks: Iterable[Runbook]) -> Mapping[str, Runbook]:
    """Entries by their current and former ids."""
    return {name: runbook for runbook in runbooks for name in (*runbook.head.formerly, runbook.id)}


def endings(runbooks: Sequence[Runbook], records: Iterable[Record]) -> Iterator[Ending]:
    """The outcomes of the runs of these entries, in the order of the records.

    Simulated runs, runs that were cut off, and runs of deleted entries are skipped.
    """
    entries = by_any_id(runbooks)
    for record in records:
        runbook = entries.get(record.runbook.id)
        found = None if runbook is None else ending_of(runbook, record)
        if found is not None:
            yield found


def ending_of(runbook: Runbook, record: Record) -> Ending | None:
    """The outcome of this run; None if it was simulated or cut off."""
    if record.outcome is None or was_simulated(record):
        return None
    found, verdicts = judge_run(runbook, record.steps, record.machine)
    sure = tuple((one.id, one.verdict) for one in verdicts if one.decides and one.verdict in _DECIDED)
    return Ending(
        runbook=runbook,
        machine_class=record.machine.machine_class,
        campaign=record.campaign,
        run_id=record.run_id,
        when=record.started_at,
        scope=scope_of(record.options),
        at_home=record.options.preset == home_preset(record.machine),
        judged=_judged(found.outcome, found.unproved),
        verdicts=_verdicts(sure),
        conditions=conditions_of(record),
    )


_judged = functools.lru_cache(maxsize=1024)(Judged)


@functools.lru_cache(maxsize=1024)
def _verdicts(pairs: tuple[tuple[str, Verdict], ...]) -> Mapping[str, Verdict]:
    return dict(pairs)


def home_preset(machine: Machine) -> str:
    """The default preset of this machine."""
    return default_preset(len(machine.gpus))


@functools.lru_cache(maxsize=1024)
def scope_of(options: Options) -> Options:
    """The scope of a run: all its options except its allowances."""
    return options.model_copy(update={"allow": ()}) if options.allow else options


def width(scope: Options) -> tuple[bool, int, bool, bool, float]:
    """Sort key for the coverage of a run: all steps before some, phases, fault injection, slow steps, time limit."""
    limit = math.inf if scope.within is None else scope.within
    return not scope.steps, len(scope.phases), scope.reproduce, scope.slow, limit


@dataclass(frozen=True, slots=True)
class Standing:
    """The current result of an entry on a class.

    Attributes:
        record, judged: the newest run of the widest scope.
        beside: newer runs of a narrower scope that found the issue, the newest first. A narrower run without a finding
            does not weaken a proof.
    """

    record: Record
    judged: Judged
    beside: tuple[JudgedRun, ...]


def standing(runs: Iterable[JudgedRun]) -> Standing | None:
    """The current result from the runs of one entry on one class, in any order; None without runs."""

    def moment(run: JudgedRun) -> tuple[datetime, str]:
        return run[0].moment

    newest = {scope_of(run[0].options): run for run in sorted(runs, key=moment)}
    if not newest:
        return None
    speaks = newest[max(newest, key=lambda scope: (width(scope), moment(newest[scope])))]
    beside = [
        run
        for run in newest.values()
        if moment(run) > moment(speaks) and run[1].outcome.exit_status == _ISSUE_IS_HERE
    ]
    return Standing(*speaks, tuple(sorted(beside, key=moment, reverse=True)))


def outcome_words(outcome: Outcome, record: Record) -> str:
    """An outcome for a reader. `healthy` names what it is limited to: `healthy in step wiring only`."""
    scope = record.options
    if outcome is not Outcome.HEALTHY:
        return outcome.value.replace("_", " ")
    if scope.steps:
        # A step that was asked for and skipped or simulated says nothing about the node.
        finished = {step.id for step in record.steps if step.counts}
        ran = [step for step in scope.steps if step in finished] or ["none"]
        return f"healthy in {'step' if len(ran) == 1 else 'steps'} {', '.join(ran)} only"
    if len(scope.phases) < len(Phase):
        return f"healthy in {', '.join(scope.phases)} only"
    return outcome.value if scope.slow else "healthy without slow steps"


def scope_words(scope: Options) -> str:
    """What a run excluded: `only diagnose`, `no slow steps`; empty for a complete run."""
    words = []
    if len(scope.phases) < len(Phase):
        words.append(f"only {', '.join(scope.phases)}")
    elif not scope.reproduce:
        words.append("no fault injected")
    if scope.steps:
        words.append(f"only {'step' if len(scope.steps) == 1 else 'steps'} {', '.join(scope.steps)}")
    if not scope.slow:
        words.append("no slow steps")
    if scope.within is not None:
        words.append(f"within {scope.within:g} s")
    return ", ".join(words)
