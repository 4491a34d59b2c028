"""How a run shows itself: a live line while a step works, one line a finished step, a table at the end."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from runner.cli.screen import Screen
from runner.evidence.headline import key_measurement, telling_labels
from runner.evidence.outcomes import drill_sentence
from runner.evidence.record import Outcome, Record, StepResult, StepStatus
from runner.plan import Plan, PlannedStep
from runner.stats import median_interval
from runner.units import format_bytes, format_value

_COLOURS = {
    StepStatus.PASSED: "green",
    StepStatus.SYMPTOM: "yellow",
    StepStatus.FAILED: "red",
    StepStatus.ERROR: "red",
    StepStatus.TIMEOUT: "red",
    StepStatus.INTERRUPTED: "red",
    StepStatus.SKIPPED: "dim",
}


class Progress:
    """Observer of one run; a context manager, so that the terminal is left as it was."""

    def __init__(self, console: Console, plan: Plan, machine_class: str) -> None:
        self._console = console
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        running = sum(planned.skip is None for planned in plan.steps)
        self._title = f"{plan.runbook.head.number}. {plan.runbook.head.title}"
        self._heading = (
            f"{machine_class}, preset {plan.preset}, {running} of {len(plan.steps)} steps run here"
        )
        self._task = self._bar.add_task("starting", total=len(plan.steps))

    def __enter__(self) -> Self:
        self._console.print(f"[bold]{escape(self._title)}[/bold]  {escape(self._heading)}", soft_wrap=True)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step_begins(self, planned: PlannedStep) -> None:
        """Name the step that is working, and its deadline."""
        step = planned.step
        self._bar.update(
            self._task, description=f"{step.phase.value}/{step.id} (deadline {step.timeout:g} s)"
        )

    def step_ended(self, result: StepResult) -> None:
        """Print the step's line and move the bar."""
        self._bar.advance(self._task)
        took = "" if result.duration_s is None else f" in {format_value(result.duration_s, 's')}"
        number = key_number(result)
        said = "; ".join(filter(None, (number, result.reason)))
        colour = _COLOURS[result.status]
        self._console.print(
            f"  {result.phase.value}/{result.id}: [{colour}]{result.status.value}[/{colour}]{took}"
            + (f" – {escape(said)}" if said else ""),
            highlight=False,
            soft_wrap=True,
        )

    def trouble(self, message: str) -> None:
        """Say what is wrong without ending the run."""
        print(f"runbook: {message}", file=cast("IO[str]", Screen(sys.stderr)), flush=True)


def key_number(result: StepResult) -> str:
    """What speaks for a step: name, labels, value with unit, 95 % interval; empty where nothing was measured."""
    key = key_measurement(result)
    if key is None:
        return ""
    interval = median_interval(key.samples) if key.statistic == "median" else None
    spread = ""
    if interval is not None:
        spread = f" [{format_value(interval.low, key.unit)} … {format_value(interval.high, key.unit)}]"
    labels = " ".join(
        f"{name}={format_bytes(value) if name == 'bytes' and isinstance(value, int) else value}"
        for name, value in telling_labels(key, result.measurements).items()
    )
    return f"{key.name}{f' ({labels})' if labels else ''} {format_value(key.value, key.unit)}{spread}"


def summary_table(records: Sequence[Record]) -> Table:
    """Entry, step, status, key number with unit, and the reason for each skip, for every step of the runs."""
    table = Table(title="What was run")
    for heading in ("entry", "step", "status", "key number", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "status")
    for record in records:
        for place, result in enumerate(record.steps):
            colour = _COLOURS[result.status]
            table.add_row(
                record.runbook.id if place == 0 else "",
                f"{result.phase.value}/{result.id}",
                f"[{colour}]{result.status.value}[/{colour}]",
                escape(key_number(result)),
                escape(result.reason or ""),
            )
        outcome = record.outcome or Outcome.INCOMPLETE
        why = escape(drill_sentence(record.unproved))
        table.add_row("", "outcome", f"[bold]{outcome.value}[/bold]", "", why, end_section=True)
    return table
