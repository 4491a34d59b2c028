"""Display of a run: the running step with its time, and one line per finished step.

On a terminal the running step is a live line; in a log it is a line when it begins and one every 30 s.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from runner.base.plain import one_line, plain
from runner.base.screen import tell_trouble
from runner.base.units import format_bytes, format_duration, format_value
from runner.entry.model import Step
from runner.entry.plan import Plan
from runner.record.evaluation import interval_of
from runner.record.headline import key_measurement, telling_labels
from runner.record.model import StepResult, StepStatus
from runner.record.simulated import NOT_COUNTED
from runner.run.pace import TimeSlot
from runner.vocabulary import label_of

# How often a log reports that a step is still running, in seconds.
_TELL_EVERY_S = 30.0
_COLOURS = {
    StepStatus.PASSED: "green",
    StepStatus.SYMPTOM: "yellow",
    StepStatus.FAILED: "red",
    StepStatus.ERROR: "red",
    StepStatus.TIMEOUT: "red",
    StepStatus.INTERRUPTED: "red",
    StepStatus.SKIPPED: "dim",
}


class RunProgress:
    """Observer of one run; a context manager that restores the terminal on exit."""

    def __init__(self, console: Console, plan: Plan, machine_class: str) -> None:
        self._console = console
        self._bar = Bar(
            SpinnerColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
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
        self._working, self._limits, self._told_s = "", "", 0.0

    def __enter__(self) -> Self:
        self._console.print(f"[bold]{escape(self._title)}[/bold]  {escape(self._heading)}", soft_wrap=True)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step_begins(self, step: Step, slot: TimeSlot) -> None:
        """Show the step that is running, its expected duration and its deadline."""
        about = f"expected {format_duration(slot.about_s)}, " if slot.measured else ""
        self._working = f"{step.phase.value}/{step.id}"
        self._limits = f"{about}at most {format_duration(slot.deadline_s)}"
        self._told_s = 0.0
        if self._console.is_terminal:
            self._show(0.0)
        else:
            self._say(f"running, {self._limits}")

    def still_running(self, seconds: float) -> None:
        """Show how long the step has run, in seconds: on the live line, or in a log every 30 s."""
        if self._console.is_terminal:
            self._show(seconds)
        elif seconds >= self._told_s + _TELL_EVERY_S:
            self._told_s = seconds // _TELL_EVERY_S * _TELL_EVERY_S
            self._say(f"still running, {format_duration(self._told_s)}")

    def _show(self, seconds: float) -> None:
        so_far = format_duration(float(round(seconds)))
        self._bar.update(self._task, description=f"{self._working}: {so_far}, {self._limits}")

    def _say(self, what: str) -> None:
        self._print(Text(f"  {self._working}: {what}"))

    def _print(self, line: Text) -> None:
        # A log has no styles, and Rich needs a third of the runner's own time for a line.
        if self._console.is_terminal:
            self._console.print(line, highlight=False, soft_wrap=True)
        else:
            self._console.file.write(plain(line.plain) + "\n")
            self._console.file.flush()

    def step_ended(self, result: StepResult) -> None:
        """Print the step's line and move the bar."""
        self._bar.advance(self._task)
        took = "" if result.duration_s is None else f" in {format_value(result.duration_s, 's')}"
        number = NOT_COUNTED if result.simulated else key_number(result)
        said = one_line("; ".join(filter(None, (number, result.reason))))
        colour = _COLOURS[result.status]
        self._print(
            Text.assemble(
                f"  {result.phase.value}/{result.id}: ",
                (result.status.value, colour),
                took,
                f" – {said}" if said else "",
            )
        )

    def trouble(self, message: str) -> None:
        """Print a problem; the run goes on."""
        tell_trouble(message)


def key_number(result: StepResult) -> str:
    """A step's key metric: name, labels, value with unit, 95 % interval; empty if nothing was measured."""
    key = key_measurement(result)
    if key is None:
        return ""
    interval = interval_of(key)
    spread = ""
    if interval is not None and interval.bounded:
        spread = f" [{format_value(interval.low, key.unit)} … {format_value(interval.high, key.unit)}]"
    labels = " ".join(
        f"{name}={format_bytes(value) if name == 'bytes' and isinstance(value, int) else value}"
        for name, value in telling_labels(key, result.measurements).items()
    )
    name = label_of(key.name) + (f" ({labels})" if labels else "")
    return f"{name}: {format_value(key.value, key.unit)}{spread}"
