"""One run, written down as it happens: a finished step is on disk before the next one begins."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from runner.entry.model import Step
from runner.errors import RunbookError, StoreError
from runner.evidence.code import new_run_id, node_alias
from runner.evidence.outcomes import judge_run
from runner.evidence.record import Code, Options, Record, RunbookRef, StepResult
from runner.evidence.redact import host_secrets, redact_head
from runner.evidence.stamp import Stamp
from runner.evidence.store import Store
from runner.hardware.machine import Machine, joint_class
from runner.launch.command import run_block
from runner.launch.interrupts import interrupts_held
from runner.launch.local import BlockRunner, run_plan
from runner.launch.lock import node_lock
from runner.pace import Pace, Turn
from runner.plan import Plan, Request


class Observer(Protocol):
    """Who wants to know how a run is getting on."""

    def step_begins(self, step: Step, turn: Turn) -> None:
        """A step is about to run, and has this long."""

    def step_ended(self, result: StepResult) -> None:
        """A step has ended, or was skipped."""

    def trouble(self, message: str) -> None:
        """Something is wrong that does not end the run."""


@dataclass(frozen=True)
class Bench:
    """Where runs happen and what they are stamped with.

    Attributes:
        root: the folder in which blocks run.
        environment: the caller's environment, from which every phase starts.
        code: the state of the code that runs.
        code_at_end: what is said of that code when a run has ended.
        stamp: of the campaign that this run belongs to, if any.
        run: what runs a block.
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
    """A finished run and the file that holds it; `stored` is false where the data folder could not take it."""

    record: Record
    path: Path
    stored: bool


def run_and_record(
    plan: Plan, request: Request, bench: Bench, observer: Observer, pace: Pace | None = None
) -> Kept:
    """Run a plan on this node; the record is saved before the first step, after every step, and at the end.

    `pace` gives each step its time: its own deadline when left out.

    Returns:
        The finished run. When the data folder fails in the middle of it, the run goes on and the record is
        kept in a temporary file instead; the observer is told.

    Raises:
        BusyError: another run holds this node.
        StoreError: the data folder cannot be written; nothing has run then.
        RunbookError: no temporary folder can be made; nothing has run then.
    """
    # Steps come redacted, and the store redacts all of it: nobody who is handed it prints what no record may hold.
    record = redact_head(_new_record(plan, request, bench), host_secrets())
    # A signal that ends the run is heeded while a step runs, and else when the record has its end.
    with interrupts_held():
        with node_lock(record.run_id), _scratch() as scratch:
            bench.store.save(record)
            failing: StoreError | None = None
            for result in run_plan(
                plan,
                bench.machine,
                run_id=record.run_id,
                root=bench.root,
                environment=bench.environment,
                scratch=Path(scratch),
                on_start=observer.step_begins,
                run=bench.run,
                pace=pace,
            ):
                record = record.model_copy(update={"steps": (*record.steps, result)})
                observer.step_ended(result)
                failing = _try_save(bench.store, record, observer, failing)
            record = _finished(record, plan, bench)
        return _kept(record, bench.store, observer)


def _kept(record: Record, store: Store, observer: Observer) -> Kept:
    try:
        return Kept(record, store.save(record), stored=True)
    except StoreError as error:
        path = _keep_elsewhere(record)
        if path is None:
            observer.trouble(
                f"{error}, and no temporary file can take it; its last state on disk is what was written before"
            )
        else:
            observer.trouble(f"{error}; the record of this run is kept in {path}")
        return Kept(record, path or store.path_of(record), stored=False)


def _scratch() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="runbook-", ignore_cleanup_errors=True)
    except OSError as error:
        raise RunbookError(
            f"cannot make a temporary folder: {error.strerror}; make room, or name another in TMPDIR"
        ) from error


def _new_record(plan: Plan, request: Request, bench: Bench) -> Record:
    head = plan.runbook.head
    stamp = bench.stamp
    members = stamp.members if stamp else ()
    # The load is this run's own, also where several entries are run one after the other.
    machine = bench.machine.model_copy(update={"load": os.getloadavg()[0]})
    if members:
        joint = joint_class(machine.machine_class, len(members))
        machine = machine.model_copy(update={"machine_class": joint})
    return Record(
        run_id=new_run_id(),
        campaign=stamp.campaign if stamp else None,
        node_alias=stamp.node_alias if stamp else node_alias(),
        members=members,
        runbook=RunbookRef(id=head.id, number=head.number, title=head.title),
        code=bench.code,
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
        simulated=bench.machine.simulated,
    )


def _finished(record: Record, plan: Plan, bench: Bench) -> Record:
    found, verdicts = judge_run(plan.runbook, record.steps, bench.machine)
    return record.model_copy(
        update={
            "code": bench.code_at_end(record.code),
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
    """Where the record is kept, as a data folder of its own, redacted like any; None where nothing takes it."""
    try:
        return Store(Path(tempfile.mkdtemp(prefix="runbook-record-"))).save(record)
    except (OSError, StoreError):
        return None
