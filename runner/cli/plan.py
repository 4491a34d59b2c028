"""`runbook plan`: what would run here, what would be skipped and why, and the maximum runtime."""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace

from rich.markup import escape

from runner.base.plain import one_line
from runner.base.units import format_duration
from runner.cli.chosen import HELP, chosen_entries
from runner.cli.console import console_on
from runner.cli.estimates import expected_times
from runner.cli.request import add_request_arguments, request_from
from runner.entry.plan import Plan, PlannedStep, make_plan
from runner.hardware.machine import look_both
from runner.record.redaction.redact import host_secrets, redact_text
from runner.run.pace import TimeSlot, foreseen

_NARROWEST = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("ids", nargs="+", metavar="ID", help=HELP)
    add_request_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan of each entry and their runtime together; nothing runs."""
    machine, visible = look_both()
    request = replace(request_from(arguments), visible=visible)
    plans = [
        make_plan(runbook, machine, request)
        for runbook in chosen_entries(arguments.runbooks, arguments.ids, machine)
    ]
    every = foreseen(plans, expected_times(arguments, plans, machine), request.within)
    console = console_on(sys.stdout)
    # In a pipe nothing is folded.
    width = console.width if sys.stdout.isatty() else None
    for plan, slots in zip(plans, every, strict=True):
        title = f"{plan.runbook.id} on {escape(machine.machine_class)}, preset {plan.preset}"
        console.print(f"[bold]{title}[/bold]", highlight=False, soft_wrap=True)
        for line in _lines(plan, slots, width) if plan.steps else ():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print()
    due = sum(slot.about_s for slots in every for slot in slots.values() if slot.left_out is None)
    console.print(
        f"Expected runtime: {format_duration(due)} (from records; without records, a tenth of each deadline)",
        highlight=False,
        soft_wrap=True,
    )
    longest, why = sum(plan.longest_s for plan in plans), "the sum of the deadlines"
    if request.within is not None:
        longest, why = request.within, "--within"
    console.print(f"Maximum runtime: {format_duration(longest)} ({why})", highlight=False, soft_wrap=True)
    return 0


def _lines(plan: Plan, slots: Mapping[str, TimeSlot], width: int | None) -> Iterator[str]:
    """Phase, id and what becomes of each step. The id has to be typed, so only what follows it is folded."""
    steps = [planned.step for planned in plan.steps]
    phases, ids = (
        [len(text) for text in texts] for texts in zip(*((s.phase, s.id) for s in steps), strict=True)
    )
    for planned in plan.steps:
        step = planned.step
        head = f"  {step.phase.value:<{max(phases)}}  {step.id:<{max(ids)}}  "
        said = one_line(redact_text(_said(planned, slots.get(step.id)), host_secrets()))
        if width is None:
            yield head + said
        elif width - len(head) >= _NARROWEST:
            yield textwrap.fill(said, width, initial_indent=head, subsequent_indent=" " * len(head))
        else:
            yield head.rstrip()
            yield textwrap.indent(textwrap.fill(said, max(width - 4, _NARROWEST)), " " * 4)


def _said(planned: PlannedStep, slot: TimeSlot | None) -> str:
    if slot is None:
        return f"skipped: {planned.skip}"
    if slot.left_out is not None:
        return slot.left_out
    return f"runs: expected {format_duration(slot.about_s)}, at most {format_duration(slot.deadline_s)}"
