"""Runs a plan and records it: each finished step is on disk before the next one begins."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from runner.base.errors import RunbookError, StoreError
from runner.entry.model import Step
from runner.entry.plan import Plan, Request
from runner.hardware.machine import Machine, joint_class
from runner.record.code import new_run_id, node_alias
from runner.record.model import Code, Options, Record, RunbookRef, StepResult
from runner.record.outcomes import judge_run
from runner.record.redaction.redact import host_secrets, redact_head
from runner.record.stamp import Stamp
from runner.record.store import Store
from runner.run.command import run_block
from runner.run.interrupts import interrupts_held
from runner.run.local import BlockRunner, RunContext, run_plan
from runner.run.lock import node_lock
from runner.run.pace import Pace, TimeSlot


class Observer(Protocol):
    """Receives the progress of a run."""

    def step_begins(self, step: Step, slot: TimeSlot) -> None:
        """A step is about to run, with this deadline."""

    def step_ended(self, result: StepResult) -> None:
        """A step has ended, or was skipped."""

    def trouble(self, message: str) -> None:
        """A problem occurred that does not end the run."""


@dataclass(frozen=True)
class RunSetting:
    """The setting of runs: folder, environment, and the code and campaign to record.

    Attributes:
        root: the folder in which blocks run.
        environment: the caller's environment, from which every phase starts.
        code: the state of the running code.
        code_at_end: checks that code again when a run has ended.
        stamp: the stamp of the campaign of this run, if any.
        run: runs a block.
    """

    machine: Machine
    store: Store
    root: Path
    environment: Mapping[str, str]
    code: Code
    stamp: Stamp | None = None
    run: BlockRunner = run_block
    code_at_end: Callable[[Code], Code] = lambda code: code


@dataclass(frozen=True)
class Kept:
    """A finished run and the file of its record; `stored` is false if the data folder could not be written."""

    record: Record
    path: Path
    stored: bool


def run_and_record(
    plan: Plan, request: Request, setting: RunSetting, observer: Observer, pace: Pace | None = None
) -> Kept:
    """Run a plan on this node; the record is saved before the first step, after every step, and at the end.

    `pace` sets the deadline of each step; default: the step's own.

    Returns:
        The finished run. If the data folder fails during the run, the run goes on, the record is saved to a temporary
        file instead, and the observer is informed.

    Raises:
        BusyError: another run holds this node.
        StoreError: the data folder cannot be written; nothing has run.
        RunbookError: no temporary folder can be created; nothing has run.
    """
    # Steps arrive redacted, and the store redacts the whole record, so that observers never print private text.
    record = redact_head(_new_record(plan, request, setting), host_secrets())
    # A signal that ends the run is handled while a step runs, else after the record is complete.
    with interrupts_held():
        with node_lock(record.run_id), _scratch() as scratch:
            setting.store.save(record)
            failing: StoreError | None = None
            context = RunContext(
                setting.machine, record.run_id, setting.root, setting.environment, Path(scratch), setting.run
            )
            for result in run_plan(plan, context, observer.step_begins, pace):
                record = record.model_copy(update={"steps": (*record.steps, result)})
                observer.step_ended(result)
                failing = _try_save(setting.store, record, observer, failing)
            record = _finished(record, plan, setting)
        return _kept(record, setting.store, observer)


def _kept(record: Record, store: Store, observer: Observer) -> Kept:
    try:
        return Kept(record, store.save(record), stored=True)
    except StoreError as error:
        path = _keep_elsewhere(record)
        if path is None:
            observer.trouble(
                f"{error}, and no temporary file can be written; the file has the last state that was saved"
            )
        else:
            observer.trouble(f"{error}; the record of this run is saved in {path}")
        return Kept(record, path or store.path_of(record), stored=False)


def _scratch() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="runbook-", ignore_cleanup_errors=True)
    except OSError as error:
        raise RunbookError(
            f"cannot create a temporary folder: {error.strerror}; free some space, or set TMPDIR to another folder"
        ) from error


def _new_record(plan: Plan, request: Request, setting: RunSetting) -> Record:
    head = plan.runbook.head
    stamp = setting.stamp
    members = stamp.members if stamp else ()
    # The load is read for each run, also when several entries run one after the other.
    machine = setting.machine.model_copy(update={"load": os.getloadavg()[0]})
    if members:
        joint = joint_class(machine.machine_class, len(members))
        machine = machine.model_copy(update={"machine_class": joint})
    return Record(
        run_id=new_run_id(),
        campaign=stamp.campaign if stamp else None,
        node_alias=stamp.node_alias if stamp else node_alias(),
        members=members,
        runbook=RunbookRef(id=head.id, number=head.number, title=head.title),
        code=setting.code,
        machine=machine,
        started_at=datetime.now(UTC),
        options=Options(
            preset=plan.preset,
            phases=plan.phases,
            steps=request.steps,
            reproduce=request.reproduce,
            slow=request.slow,
            allow=request.allow,
            within=request.within,
        ),
        simulated=setting.machine.simulated,
    )


def _finished(record: Record, plan: Plan, setting: RunSetting) -> Record:
    found, verdicts = judge_run(plan.runbook, record.steps, setting.machine)
    return record.model_copy(
        update={
            "code": setting.code_at_end(record.code),
            "verdicts": verdicts,
            "outcome": found.outcome,
            "unproved": found.unproved,
            "ended_at": datetime.now(UTC),
        }
    )


def _try_save(
    store: Store, record: Record, observer: Observer, failing: StoreError | None
) -> StoreError | None:
    try:
        store.save(record)
    except StoreError as error:
        if failing is None:
            observer.trouble(f"{error}; the run goes on and its record is written at the end")
        return error
    return None


def _keep_elsewhere(record: Record) -> Path | None:
    """Save the redacted record to a temporary data folder; its path, or None if that fails."""
    try:
        return Store(Path(tempfile.mkdtemp(prefix="runbook-record-"))).save(record)
    except (OSError, StoreError):
        return None
