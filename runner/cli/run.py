"""`runbook run`: runs entries on this node, shows their progress, and stores their records."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from runner.base.errors import BusyError
from runner.base.failure import INTERRUPTED
from runner.base.places import running_package
from runner.base.plain import one_line
from runner.base.screen import Screen, tell_trouble
from runner.cli.chosen import HELP, chosen_entries
from runner.cli.cluster_arguments import add_cluster_arguments, on_slurm
from runner.cli.console import console_of
from runner.cli.estimates import expected_times
from runner.cli.progress import RunProgress
from runner.cli.request import add_request_arguments, request_from
from runner.cli.summary import Ended, print_summary
from runner.entry.model import Phase
from runner.entry.plan import Plan, make_plan
from runner.fleet.joint import joint_runner
from runner.hardware.machine import look_both
from runner.history.endings import outcome_words
from runner.record.code import code_at_the_end, code_state
from runner.record.model import Outcome, StepStatus
from runner.record.outcomes import drill_sentence
from runner.record.redaction.redact import host_secrets, redact_text
from runner.record.stamp import read_stamp
from runner.record.store import Store
from runner.run.command import run_block
from runner.run.pace import Schedule
from runner.run.recording import Kept, RunSetting, run_and_record
from runner.run.schedule import step_works

# How long output may wait for a reader that does not read, in seconds; step deadlines are not extended.
_PATIENCE_S = 5.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("ids", nargs="+", metavar="ID", help=HELP)
    add_request_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the records as a JSON list")
    add_cluster_arguments(parser)
    # Set by a campaign's job on its node.
    parser.add_argument("--stamp", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Run the entries one after the other; the exit status is that of the worst outcome (3, then 1, then 0).

    130 if a signal ended a step; later steps and entries do not run.

    Raises:
        InputError: an entry, a step or a preset does not exist; nothing has run.
    """
    began = time.monotonic()
    request = request_from(arguments)
    if on_slurm(arguments):
        # Imported late: a run on this node needs nothing of a campaign.
        from runner.cli.cluster import run_on_slurm  # noqa: PLC0415

        return run_on_slurm(arguments, request)
    stamp = None if arguments.stamp is None else read_stamp(arguments.stamp)
    if stamp is not None and stamp.members:
        request = replace(request, nodes=len(stamp.members))
    # Human-readable lines go to standard error if standard output is for a program.
    console = console_of(to_stderr=arguments.json, patience_s=_PATIENCE_S)
    machine, visible = look_both()
    request = replace(request, visible=visible)
    plans = [
        make_plan(runbook, machine, request)
        for runbook in chosen_entries(arguments.runbooks, arguments.ids, machine)
    ]
    root = arguments.places.root()
    code = code_state(running_package(), *arguments.runbooks, root=root)
    if stamp is not None:
        code = stamp.code_here(code)
    again = partial(code_at_the_end, package=running_package(), entries=arguments.runbooks)
    setting = RunSetting(
        machine, Store(arguments.data), root, dict(os.environ), code, stamp, code_at_end=again
    )
    works = [step_works(*one) for one in zip(plans, expected_times(arguments, plans, machine), strict=True)]
    schedule = Schedule(request.within, works, time.monotonic, began)
    kept: list[Kept] = []
    ended: list[Ended] = []
    for number, plan in enumerate(plans):
        with RunProgress(console, plan, machine.machine_class) as progress:
            try:
                shown = partial(run_block, still_running=progress.still_running)
                across = replace(setting, run=joint_runner(shown, plan.runbook))
                kept.append(run_and_record(plan, request, across, progress, schedule.entry(number)))
                ended.append(Ended(plan, kept[-1].record))
            except BusyError as error:
                # The holder of the node is read from a file that any user may write.
                busy = one_line(redact_text(str(error), host_secrets()))
                if not kept:
                    raise BusyError(busy) from error
                progress.trouble(f"{plan.runbook.id} was not run: {busy}")
                continue
        _close(console, plan, kept[-1])
        if _interrupted(kept[-1]):
            break
    print_summary(console_of(to_stderr=arguments.json), ended, machine, time.monotonic() - began)
    printed = not arguments.json or _printed_as_json(kept)
    if any(map(_interrupted, kept)):
        return INTERRUPTED
    return exit_status(kept, len(plans)) if printed else Outcome.INCOMPLETE.exit_status


def _interrupted(kept: Kept) -> bool:
    return any(step.status is StepStatus.INTERRUPTED for step in kept.record.steps)


def _printed_as_json(kept: Sequence[Kept]) -> bool:
    out = Screen(sys.stdout)
    # The stored, redacted records: printed output gets pasted.
    records = [json.loads(one.path.read_text(encoding="utf-8")) for one in kept]
    out.write(json.dumps(records, sort_keys=True, indent=2) + "\n")
    out.flush()
    if out.lost:
        where = ", ".join(str(one.path) for one in kept)
        tell_trouble(f"could not write the records to standard output; they are in {where}")
    return not out.lost


def exit_status(kept: Sequence[Kept], asked: int) -> int:
    """The exit status of the worst outcome; 3 if a requested entry has no record in the data folder."""
    if len(kept) < asked or not all(one.stored for one in kept):
        return Outcome.INCOMPLETE.exit_status
    return max((one.record.outcome or Outcome.INCOMPLETE).exit_status for one in kept)


def _close(console: Console, plan: Plan, kept: Kept) -> None:
    record = kept.record
    outcome = record.outcome or Outcome.INCOMPLETE
    ended = f"{plan.runbook.id}: {escape(outcome_words(outcome, record))}"
    console.print(f"[bold]{ended}[/bold]  record: {escape(str(kept.path))}", soft_wrap=True)
    if record.unproved:
        console.print(
            escape(f"{outcome_words(outcome, record)}: {drill_sentence(record.unproved)}"),
            highlight=False,
            soft_wrap=True,
        )
    found = any(
        step.phase is Phase.DIAGNOSE and step.status in {StepStatus.SYMPTOM, StepStatus.FAILED}
        for step in record.steps
    )
    if outcome in {Outcome.FIX_PROVED, Outcome.DRILL_PASSED} and found:
        console.print("The fix applied to this run only. To make it permanent, run:")
        for step in record.steps:
            if step.phase is Phase.FIX and step.status is StepStatus.PASSED:
                console.print(escape(step.command.rstrip()), highlight=False, soft_wrap=True)
