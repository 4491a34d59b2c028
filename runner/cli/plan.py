"""`runbook plan`: what would run here, what would be skipped and why, the longest it may take."""

import argparse

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runner.cli.request import add_request_arguments, request_from
from runner.entry.read import find
from runner.hardware.machine import look
from runner.plan import Plan, make_plan


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("id", metavar="ID", help="an entry's id, the beginning of one, or its number")
    add_request_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; nothing runs."""
    machine = look()
    plan = make_plan(find(arguments.runbooks, arguments.id), machine, request_from(arguments))
    console = Console()
    console.print(_table(plan, machine.machine_class))
    console.print(f"The longest it may take: {plan.longest_s:,.0f} s (the sum of the deadlines).")
    return 0


def _table(plan: Plan, machine_class: str) -> Table:
    table = Table(title=f"{plan.runbook.id} on {machine_class}, preset {plan.preset}")
    for heading in ("phase", "step", "deadline", "here"):
        table.add_column(heading)
    for planned in plan.steps:
        step = planned.step
        here = "runs" if planned.skip is None else f"skipped: {planned.skip}"
        table.add_row(step.phase.value, step.id, f"{step.timeout:g} s", escape(here))
    return table
