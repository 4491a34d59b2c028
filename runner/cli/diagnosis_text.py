"""A diagnosis as text for a person: what must be done first."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from runner.base.plain import one_line, plain
from runner.base.words import counted
from runner.record.diagnosis import Diagnosis, Obstacle, State, diagnosis_status
from runner.record.step_findings import SingleFinding, StepFinding, gravest

# The width of the first column: the longest word is `critical`.
_FIRST = 9
_COMMAND = re.compile("`[^`]*`")
# Stands for a space at which no line may break; `one_line` leaves none of it in a text.
_JOINT = "\0"
# Of one step, and of several.
_REASONS: Mapping[Obstacle, tuple[str, str]] = MappingProxyType(
    {
        Obstacle.GPUS: ("needs GPUs", "need GPUs"),
        Obstacle.NODES: ("needs more nodes", "need more nodes"),
        Obstacle.LOADS: ("loads the device", "load the device"),
        Obstacle.CHANGES: ("changes the host", "change the host"),
        Obstacle.OTHER: ("does not apply here", "do not apply here"),
    }
)


@dataclass(frozen=True)
class _Line:
    """One line before it is broken: `first` stays whole, and the columns below it stay empty.

    `indent`: of the further lines, if it is not the width of `first`.
    """

    first: str
    text: str = ""
    indent: int | None = None

    def broken(self, width: int | None) -> Iterator[str]:
        """In lines of at most this width, unless a word or a command in backticks is longer; None: in one line."""
        if width is None or not self.text:
            yield (self.first + self.text).rstrip()
            return
        whole = _COMMAND.sub(lambda found: found[0].replace(" ", _JOINT), self.text)
        lines = textwrap.wrap(
            whole,
            width,
            initial_indent=self.first,
            subsequent_indent=" " * (len(self.first) if self.indent is None else self.indent),
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield from (line.replace(_JOINT, " ") for line in lines or [self.first.rstrip()])


@dataclass
class _Told:
    """One finding for the reader.

    Attributes:
        rank: of its action.
        word: what it begins with: the action, or the severity where no action is known.
        text: where and what.
        fixes: commands, or comments for a person.
        entries: ids of the entries that found it.
    """

    rank: int
    word: str
    text: str
    next: str = ""
    vendor: str | None = None
    fixes: tuple[str, ...] = ()
    entries: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[_Line]:
        yield _Line(f"{self.word:{_FIRST}}", self.text)
        if self.next:
            yield _Line(f"{'':{_FIRST}}next:   ", self.next)
        if self.vendor:
            yield _Line(f"{'':{_FIRST}}vendor: ", self.vendor)
        # Commands are not broken into lines: they are copied.
        yield from (_Line(f"{'':{_FIRST}}fix:    {line}") for line in self.fixes)
        yield from (_Line(f"{'':{_FIRST}}more:   runbook show {entry}") for entry in self.entries)


def as_text(
    diagnoses: Sequence[Diagnosis],
    machine_class: str,
    seconds: float,
    *,
    width: int | None = None,
    verbose: bool = False,
    gpu_problem: str | None = None,
) -> Iterator[str]:
    """Lines for a person, the finding with the gravest action first.

    Args:
        diagnoses: ranked.
        machine_class: of this node.
        seconds: how long it took.
        width: of the terminal; None: each line is whole, as programs want it.
        verbose: lists the steps that were not run, with reasons.
        gpu_problem: why the GPUs, or some facts about them, could not be read.
    """
    for line in _lines(diagnoses, machine_class, seconds, verbose, gpu_problem):
        yield from line.broken(width)


def _lines(
    diagnoses: Sequence[Diagnosis], machine_class: str, seconds: float, verbose: bool, gpu_problem: str | None
) -> Iterator[_Line]:
    for told in _findings(diagnoses):
        yield from told.lines()
    for one in diagnoses:
        # Also of an entry with findings: a hint is worth reading whatever else was found.
        for note in _together(one.notes):
            yield from _of(note, (), [one.entry]).lines()
        for hint in one.hints:
            yield _Line(f"{'check':{_FIRST}}", f"entry {one.number}, {one.entry}: {one_line(hint)}")
    clear = [f"{one.entry} ({', '.join(one.looked)})" for one in diagnoses if one.state is State.CLEAR]
    if clear:
        yield _Line("no findings: ", "; ".join(clear), 2)
    idle = [one.entry for one in diagnoses if one.state is State.NOT_LOOKED]
    if idle:
        yield _Line("no check ran: ", ", ".join(idle), 2)
    if gpu_problem is not None and not any(
        step.blocked and gpu_problem in step.why for one in diagnoses for step in one.not_looked
    ):
        yield _Line("blocked: ", one_line(gpu_problem), 2)
    yield from _not_looked(diagnoses, verbose=verbose)
    yield _Line("", f"{verdict_of(diagnoses)}, on {machine_class} in {seconds:.1f} s", 2)
    yield _Line("read only: nothing was loaded or changed")


def _findings(diagnoses: Sequence[Diagnosis]) -> list[_Told]:
    """The findings of all entries, the gravest action first. What several entries found at one place is told once."""
    told: dict[tuple[object, ...], _Told] = {}
    for one in diagnoses:
        for finding in one.findings:
            fixes = _fixes(finding, one.entry)
            located = [single for single in finding.singles if single.found]
            for single in _together(located):
                key = (single.action, single.where, single.kind or single.found)
                told.setdefault(key, _of(single, fixes, [])).entries.append(one.entry)
            if not located:
                rank, _ = finding.urgency
                word = str(finding.action or finding.severity)
                text = f"entry {one.number}, {one.entry}: {one_line(finding.said)}"
                told[one.entry, finding.step] = _Told(rank, word, text, fixes=fixes, entries=[one.entry])
    return sorted(told.values(), key=lambda one: -one.rank)


def _of(single: SingleFinding, fixes: tuple[str, ...], entries: list[str]) -> _Told:
    text = ": ".join(one_line(one) for one in (single.where, single.found) if one)
    vendor = single.vendor and one_line(single.vendor)
    return _Told(single.rank, str(single.action), text, one_line(single.next), vendor, fixes, entries)


def _fixes(finding: StepFinding, entry: str) -> tuple[str, ...]:
    # Without a remedy from a probe, the fix is to read the entry, which the last line says.
    lines = [line for fix in finding.undo for line in plain(fix).splitlines()]
    return tuple(line for line in lines if line != f"runbook show {entry}")


def _together(singles: Sequence[SingleFinding]) -> Iterator[SingleFinding]:
    """Findings that differ only in their place as one with all places: the same of eight GPUs is told once."""
    places: dict[SingleFinding, list[str]] = {}
    for single in singles:
        places.setdefault(replace(single, where=""), []).append(single.where)
    yield from (replace(single, where=", ".join(filter(None, where))) for single, where in places.items())


def _not_looked(diagnoses: Sequence[Diagnosis], *, verbose: bool) -> Iterator[_Line]:
    blind = [(one, step) for one in diagnoses for step in one.not_looked]
    blocked: dict[str, list[str]] = {}
    for one, step in blind:
        if step.blocked:
            blocked.setdefault(one_line(step.why), []).append(f"{one.entry}/{step.step}")
    for why, steps in blocked.items():
        yield _Line("blocked: ", f"{', '.join(steps)}: {why}", 2)
    # A step that ran and finds nothing is listed with --verbose, and is none that was not run.
    not_run: Counter[Obstacle] = Counter(
        step.kind for _, step in blind if not step.blocked and step.kind is not Obstacle.FINDS_NOTHING
    )
    if not_run:
        yield _Line("", _not_run(not_run) + (":" if verbose else "; --verbose lists them"), 2)
    for one, step in blind:
        if verbose and not step.blocked:
            yield _Line("   ", f"{one.entry}/{step.step}: {one_line(step.why)}", 6)


def _not_run(kinds: Mapping[Obstacle, int]) -> str:
    """`12 steps not run by `diagnose` here: 9 need GPUs, 3 load the device`."""
    reasons = (f"{count} {_REASONS[kind][count > 1]}" for kind, count in Counter(kinds).most_common())
    return f"{counted(sum(kinds.values()), 'step')} not run by `diagnose` here: {', '.join(reasons)}"


def verdict_of(diagnoses: Sequence[Diagnosis]) -> str:
    """The verdict on the node in a few words: `findings in 2 of 17 entries, most severe: drain`."""
    found = [one for one in diagnoses if one.state is State.FOUND]
    if found:
        action = gravest([one.action for one in found])
        return f"findings in {len(found)} of {len(diagnoses)} entries" + (
            f", most severe: {action}" if action else ""
        )
    blocked = sum(one.blocked for one in diagnoses)
    if blocked:
        return f"unknown: {counted(blocked, 'check was', 'checks were')} blocked"
    return (
        "unknown: no check could run here"
        if diagnosis_status(diagnoses)
        else "no findings in the checks that ran"
    )
