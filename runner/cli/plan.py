"""`runbook plan`: what would run here, what would be skipped and why, the longest it may take."""

import argparse
import sys
from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from runner.cli.console import console_on
from runner.cli.estimates import expected_times
from runner.cli.request import add_request_arguments, request_from
from runner.entry.read import find
from runner.evidence.redact import host_secrets, redact_text
from runner.hardware.machine import look
from runner.pace import Turn, foreseen
from runner.plain import one_line
from runner.plan import Plan, make_plan
from runner.units import format_duration


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("id", metavar="ID", help="an entry's id, the beginning of one, or its number")
    add_request_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; nothing runs."""
    machine = look()
    request = request_from(arguments)
    plan = make_plan(find(arguments.runbooks, arguments.id), machine, request)
    (expected,) = expected_times(arguments, [plan], machine)
    turns = foreseen(plan, expected, request.within)
    console = console_on(sys.stdout)
    console.print(_table(plan, machine.machine_class, turns))
    due = sum(turn.about_s for turn in turns.values() if turn.left_out is None)
    console.print(
        f"Expected: {format_duration(due)}, by records where there are any, else a tenth of each deadline."
    )
    if request.within is None:
        console.print(
            f"The longest it may take: {format_duration(plan.longest_s)} (the sum of the deadlines)."
        )
    else:
        console.print(f"The longest it may take: {format_duration(request.within)} (--within).")
    return 0


def _table(plan: Plan, machine_class: str, turns: Mapping[str, Turn]) -> Table:
    table = Table(title=f"{plan.runbook.id} on {machine_class}, preset {plan.preset}")
    for heading in ("phase", "step", "expected", "deadline", "here"):
        table.add_column(heading)
    for planned in plan.steps:
        step = planned.step
        turn = turns.get(step.id)
        about = "" if turn is None else format_duration(turn.about_s)
        here = (turn and turn.left_out) or (f"skipped: {planned.skip}" if planned.skip else "runs")
        table.add_row(
            step.phase.value,
            step.id,
            about,
            f"{step.timeout:g} s",
            escape(one_line(redact_text(here, host_secrets()))),
        )
    return table
