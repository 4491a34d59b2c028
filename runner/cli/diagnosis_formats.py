"""A diagnosis as text for a reader, as a line for Nagios, and as a text file for Prometheus' node_exporter."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from runner.base.plain import one_line, plain
from runner.base.words import counted
from runner.record.diagnosis import Diagnosis, Obstacle, State, diagnosis_status, grave

NAGIOS_OK, NAGIOS_WARNING, NAGIOS_CRITICAL, NAGIOS_UNKNOWN = range(4)
_NAGIOS_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
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


def as_text(
    diagnoses: Sequence[Diagnosis], machine_class: str, seconds: float, *, verbose: bool = False
) -> Iterator[str]:
    """Lines for a person, the most urgent entry first. `verbose` lists the steps that were not run, with reasons."""
    found = [one for one in diagnoses if one.state is State.FOUND]
    for place, one in enumerate(found, start=1):
        yield f"{place}. entry {one.number}, {one.entry} ({one.severity}): {one_line(one.said)}"
        # Without a remedy from a probe, the fix is to read the entry, which the last line says.
        fixes = [line for fix in one.fix for line in plain(fix).splitlines()]
        yield from (f"   fix:  {line}" for line in fixes if line != f"runbook show {one.entry}")
        yield f"   more: runbook show {one.entry}"
    for one in diagnoses:
        # Also of an entry with findings: a hint is worth reading whatever else was found.
        yield from (f"check entry {one.number}, {one.entry}: {one_line(hint)}" for hint in one.hints)
    clear = [f"{one.entry} ({', '.join(one.looked)})" for one in diagnoses if one.state is State.CLEAR]
    if clear:
        yield f"no findings: {'; '.join(clear)}"
    idle = [one.entry for one in diagnoses if one.state is State.NOT_LOOKED]
    if idle:
        yield f"no check ran: {', '.join(idle)}"
    blind = [(one, step) for one in diagnoses for step in one.not_looked]
    for one, step in blind:
        if step.blocked:
            yield f"blocked: {one.entry}/{step.step}: {one_line(step.why)}"
    not_run = Counter(step.kind for _, step in blind if not step.blocked)
    if not_run:
        yield _not_run(not_run) + (":" if verbose else "; --verbose lists them")
    for one, step in blind:
        if verbose and not step.blocked:
            yield f"   {one.entry}/{step.step}: {one_line(step.why)}"
    yield f"{_verdict(diagnoses)}, on {machine_class} in {seconds:.1f} s; read only, nothing loaded or changed"


def _not_run(kinds: Mapping[Obstacle, int]) -> str:
    """`12 steps not run by `diagnose` here: 9 need GPUs, 3 load the device`."""
    reasons = (f"{count} {_REASONS[kind][count > 1]}" for kind, count in Counter(kinds).most_common())
    return f"{counted(sum(kinds.values()), 'step')} not run by `diagnose` here: {', '.join(reasons)}"


def _verdict(diagnoses: Sequence[Diagnosis]) -> str:
    found = sum(one.state is State.FOUND for one in diagnoses)
    if found:
        return f"findings in {found} of {len(diagnoses)} entries"
    blocked = sum(map(_blocked, diagnoses))
    if blocked:
        return f"unknown: {counted(blocked, 'check was', 'checks were')} blocked"
    return (
        "unknown: no check could run here"
        if diagnosis_status(diagnoses)
        else "no findings in the checks that ran"
    )


def nagios_status(diagnoses: Sequence[Diagnosis]) -> int:
    """Nagios' own codes: 2 critical from severity high on, 1 warning below, 3 unknown, 0 no findings."""
    status = diagnosis_status(diagnoses)
    if status == 1:
        return NAGIOS_CRITICAL if grave(diagnoses) else NAGIOS_WARNING
    return NAGIOS_UNKNOWN if status else NAGIOS_OK


def as_nagios(diagnoses: Sequence[Diagnosis], seconds: float) -> str:
    """One line: the state, the findings, and performance data after the bar."""
    found = [one for one in diagnoses if one.findings]
    said = "; ".join(f"{one.entry}: {one.said}" for one in found) or _verdict(diagnoses)
    blocked = sum(map(_blocked, diagnoses))
    data = f"entries_found={len(found)} steps_blocked={blocked} time={seconds:.3f}s"
    # The bar begins the performance data, so the text must not have one.
    return f"RUNBOOK {_NAGIOS_WORDS[nagios_status(diagnoses)]} - {one_line(said).replace('|', '/')} | {data}"


def as_prometheus(diagnoses: Sequence[Diagnosis], seconds: float, now: float) -> str:
    """A textfile for node_exporter's collector; `now` in seconds since the epoch."""
    findings = {}
    for one in diagnoses:
        found = Counter(finding.severity.value for finding in one.findings) or Counter({"none": 0})
        for severity, count in sorted(found.items()):
            findings[f'{{entry="{one.entry}",severity="{severity}"}}'] = count
    entries = {f'{{entry="{one.entry}"}}': one for one in diagnoses}
    looked = {labels: len(one.looked) for labels, one in entries.items()}
    blocked = {labels: _blocked(one) for labels, one in entries.items()}
    status = {"": diagnosis_status(diagnoses)}
    status_help = "Exit status: 0 no findings in the checks that ran, 1 issue found, 3 unknown."
    lines = [
        *_family("findings", "Findings of an entry's read-only steps, by severity.", findings),
        *_family("looked", "Read-only steps that ran to their end.", looked),
        *_family("blocked", "Steps that should have run and could not.", blocked),
        *_family("exit_status", status_help, status),
        *_family("duration_seconds", "Duration of the command.", {"": round(seconds, 3)}),
        *_family("timestamp_seconds", "When it ended, in seconds since the epoch.", {"": round(now, 3)}),
    ]
    return "\n".join(lines) + "\n"


def _family(name: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    """A metric with its samples, by their labels."""
    yield f"# HELP runbook_diagnose_{name} {text}"
    yield f"# TYPE runbook_diagnose_{name} gauge"
    yield from (f"runbook_diagnose_{name}{labels} {value}" for labels, value in values.items())


def _blocked(one: Diagnosis) -> int:
    return sum(blind.blocked for blind in one.not_looked)
