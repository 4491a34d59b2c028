"""The end of a run on one screen: what each entry came to, what broke, what was left out and what would include it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runner.cli.progress import key_number
from runner.evidence.record import Outcome, Record, StepResult, StepStatus
from runner.hardware.machine import Machine
from runner.plan import Plan
from runner.units import format_duration

_COLOURS = {0: "green", 1: "red", 3: "yellow"}


@dataclass(frozen=True)
class Ended:
    """An entry that was run."""

    plan: Plan
    record: Record


def print_summary(console: Console, ended: Sequence[Ended], machine: Machine, took_s: float) -> None:
    """A line an entry, then a line for each thing that went wrong and for each reason to leave steps out."""
    console.print(_table(ended, f"{machine.machine_class}, {format_duration(took_s)}"))
    for heading, lines in (
        ("Could not finish:", list(_broken(ended))),
        ("Left out, and what would include it:", left_out(ended, machine)),
    ):
        if lines:
            console.print(heading)
        for line in lines:
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def _table(ended: Sequence[Ended], title: str) -> Table:
    table = Table(title=f"What was found: {title}", title_justify="left")
    table.add_column("entry", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("steps run", no_wrap=True)
    table.add_column("its number", overflow="fold")
    for one in ended:
        outcome = one.record.outcome or Outcome.INCOMPLETE
        ran = sum(step.status is not StepStatus.SKIPPED for step in one.record.steps)
        colour = _COLOURS[outcome.exit_status]
        table.add_row(
            one.record.runbook.id,
            f"[{colour}]{outcome.value}[/{colour}]",
            f"{ran} of {len(one.record.steps)}",
            escape(_headline(one)),
        )
    return table


def _headline(one: Ended) -> str:
    """The entry's headline number if it was taken, else the last number of its last steps."""
    finished = [step for step in one.record.steps if step.status.finished and key_number(step)]
    wanted = one.plan.runbook.head.headline
    chosen = next((step for step in finished if step.id == wanted), finished[-1] if finished else None)
    return "" if chosen is None else f"{chosen.id}: {key_number(chosen)}"


def _broken(ended: Sequence[Ended]) -> Iterator[str]:
    for one in ended:
        for step in one.record.steps:
            if step.status.broken:
                yield f"{one.record.runbook.id} {step.phase.value}/{step.id}: {step.status.value}, {step.reason}"


def left_out(ended: Sequence[Ended], machine: Machine) -> list[str]:
    """A line for each reason for which steps were skipped, with how many; the most frequent first."""
    found: Counter[str] = Counter()
    for one in ended:
        gpus = {planned.step.id: planned.step.gpus for planned in one.plan.steps}
        for step in one.record.steps:
            if step.status is StepStatus.SKIPPED:
                found[_why(step, gpus[step.id], machine, one.record.options.within)] += 1
    wanted = sorted({n for one in ended for n in _gpus_missing(one, machine)})
    texts = {_GPUS: f"need {_listed(wanted)} GPUs; this host has {len(machine.gpus) or 'none'}"}
    return [
        f"{number} step{'' if number == 1 else 's'}: {texts.get(why, why)}"
        for why, number in found.most_common()
    ]


_GPUS = "gpus"


def _gpus_missing(one: Ended, machine: Machine) -> Iterator[int]:
    for planned in one.plan.steps:
        if planned.skip is not None and planned.step.gpus > len(machine.gpus):
            yield planned.step.gpus


def _why(step: StepResult, gpus: int, machine: Machine, within: float | None) -> str:
    if step.left_out and within is not None:
        return f"did not fit into {format_duration(within)}; a longer --within, or none, includes them"
    if gpus > len(machine.gpus) and machine.gpu_error is None:
        return _GPUS
    return step.reason or "no reason given"


def _listed(numbers: Sequence[int]) -> str:
    *most, last = [str(number) for number in numbers] or ["more"]
    return f"{', '.join(most)} or {last}" if most else last
