"""The end of a run on one screen: the result of each entry, what to check, what was left out and how to include it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from runner.base.plain import one_line
from runner.base.units import format_duration, format_value
from runner.base.words import counted
from runner.cli.rows import aligned
from runner.entry.model import Phase
from runner.entry.plan import Plan
from runner.hardware.machine import Machine
from runner.history.endings import outcome_words
from runner.record.headline import key_measurement
from runner.record.looked import Looked, looked_at
from runner.record.model import Outcome, Record, StepResult, StepStatus, Verdict
from runner.record.outcomes import drill_sentence
from runner.record.simulated import NOT_COUNTED
from runner.vocabulary import label_of

_COLOURS = {0: "green", 1: "red", 3: "yellow"}
# Not green: the method works here, but its effect was not measured.
_DRILL_COLOUR = "cyan"
_GPUS = "GPUs"


@dataclass(frozen=True)
class Ended:
    """An entry that was run."""

    plan: Plan
    record: Record

    @property
    def outcome(self) -> Outcome:
        """The outcome that the record holds."""
        return self.record.outcome or Outcome.INCOMPLETE


def print_summary(console: Console, ended: Sequence[Ended], machine: Machine, took_s: float) -> None:
    """One line for each entry, then one for each thing to check and for each reason why steps were left out."""
    console.print()
    console.print(
        f"[bold]Results[/bold] on {escape(machine.machine_class)} in {format_duration(took_s)}",
        highlight=False,
        soft_wrap=True,
    )
    for row in _rows(ended, console.width):
        console.print(row, soft_wrap=True)
    to_look_at = [line for one in ended for line in look_at(one)]
    for heading, lines in (
        ("Check", to_look_at),
        ("Left out, and how to include it", left_out_lines(ended, machine)),
    ):
        if lines:
            console.print(f"[bold]{heading}[/bold]")
        for line in lines:
            console.print(f"  {escape(one_line(line))}", highlight=False, soft_wrap=True)


def _rows(ended: Sequence[Ended], width: int) -> Iterator[Text]:
    rows = []
    for one in ended:
        ran = sum(step.status is not StepStatus.SKIPPED for step in one.record.steps)
        drilled = one.outcome is Outcome.DRILL_PASSED
        colour = _DRILL_COLOUR if drilled else _COLOURS[one.outcome.exit_status]
        rows.append(
            (
                Text(f"  {one.record.runbook.id}"),
                Text(one_line(outcome_words(one.outcome, one.record)), style=colour),
                Text(f"{ran} of {counted(len(one.record.steps), 'step')} ran"),
                Text(one_line(_headline(one))),
            )
        )
    return aligned(rows, width, 4)


def _headline(one: Ended) -> str:
    """The entry's main number if it was measured, else the last one that was."""
    taken = [(step.id, key) for step in one.record.steps if step.counts and (key := key_measurement(step))]
    wanted = [key for step_id, key in taken if step_id == one.plan.runbook.head.headline]
    keys = wanted or [key for _, key in taken[-1:]]
    return f"{label_of(keys[0].name)}: {format_value(keys[0].value, keys[0].unit)}" if keys else ""


def look_at(one: Ended) -> Iterator[str]:
    """What an entry did not prove, which steps were simulated, and why its outcome is not good.

    The reasons are steps that broke, failed or were left out, and bounds that were not decided.
    """
    name = one.record.runbook.id
    if one.record.unproved:
        yield f"{name}: {drill_sentence(one.record.unproved)}"
    for step in one.record.steps:
        if step.simulated:
            yield f"{name} {step.phase.value}/{step.id}: {NOT_COUNTED}"
    if not one.outcome.exit_status:
        return
    for step in one.record.steps:
        found = step.status in {StepStatus.SYMPTOM, StepStatus.FAILED} and step.phase is not Phase.REPRODUCE
        if step.status.broken or found:
            why = f", {step.reason}" if step.reason else ""
            yield f"{name} {step.phase.value}/{step.id}: {step.status.value}{why}"
    yield from _no_look(one)
    proves = set(Phase) if one.outcome is Outcome.INCONCLUSIVE else {Phase.FIX, Phase.VERIFY}
    without = [f"{s.phase.value}/{s.id}" for s in one.record.steps if s.left_out and s.phase in proves]
    if without:
        were = "was" if len(without) == 1 else "were"
        yield f"{name}: {outcome_words(one.outcome, one.record)}, because {', '.join(without)} {were} left out"
    if one.outcome is Outcome.INCONCLUSIVE:
        for verdict in one.record.verdicts:
            if verdict.decides and verdict.verdict is Verdict.INCONCLUSIVE:
                yield f"{name} {verdict.id}: inconclusive{f', {verdict.note}' if verdict.note else ''}"


def _no_look(one: Ended) -> Iterator[str]:
    """Which steps that ran say nothing about this node, where the outcome is for that reason not `healthy`."""
    if one.outcome not in {Outcome.INCONCLUSIVE, Outcome.NOT_APPLICABLE}:
        return
    name = one.record.runbook.id
    ran = [step for step in one.record.steps if step.status is StepStatus.PASSED]
    looks = [(step, looked_at(one.plan.runbook, step)) for step in ran]
    for step, look in looks:
        if look is not Looked.NODE:
            yield f"{name} {step.phase.value}/{step.id}: {look.why}"
    asked = any(step.phase is Phase.DIAGNOSE for step in one.record.steps)
    looked = any(step.phase is Phase.DIAGNOSE and look is Looked.NODE for step, look in looks)
    if ran and asked and not looked:
        yield f"{name}: no step of Diagnose judged this node"


def left_out_lines(ended: Sequence[Ended], machine: Machine) -> list[str]:
    """One line for each reason why steps were skipped, with their number; the most frequent first."""
    found: Counter[str] = Counter()
    wanted: set[int] = set()
    for one in ended:
        gpus = {planned.step.id: planned.step.gpus for planned in one.plan.steps}
        for step in one.record.steps:
            if step.status is StepStatus.SKIPPED:
                why = _why(step, gpus[step.id], machine, one.record.options.within)
                found[why] += 1
                wanted |= {gpus[step.id]} if why == _GPUS else set()
    *most, last = [str(number) for number in sorted(wanted)] or [""]
    listed = f"{', '.join(most)} or {last}" if most else last
    noun = "GPU" if wanted == {1} else "GPUs"
    texts = {_GPUS: f"{listed} {noun} needed, this host has {len(machine.gpus) or 'none'}"}
    return [f"{counted(number, 'step')}: {texts.get(why, why)}" for why, number in found.most_common()]


def _why(step: StepResult, gpus: int, machine: Machine, within: float | None) -> str:
    if step.left_out and within is not None:
        return f"did not fit into {format_duration(within)}; a longer --within, or none, includes them"
    if gpus > len(machine.gpus) and machine.gpu_error is None:
        return _GPUS
    return step.reason or "no reason given"
