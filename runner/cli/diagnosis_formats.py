"""How a diagnosis is said: to a reader, to Nagios, to Prometheus' node_exporter."""

from collections.abc import Iterator, Sequence

from runner.evidence.diagnosis import Diagnosis, State, exit_status, grave
from runner.plain import one_line, plain

NAGIOS_OK, NAGIOS_WARNING, NAGIOS_CRITICAL, NAGIOS_UNKNOWN = range(4)
_NAGIOS_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def as_text(diagnoses: Sequence[Diagnosis], machine_class: str, seconds: float) -> Iterator[str]:
    """Lines for a person, the most urgent entry first."""
    found = [one for one in diagnoses if one.state is State.FOUND]
    for place, one in enumerate(found, start=1):
        yield f"{place}. entry {one.number}, {one.entry} ({one.severity}): {one_line(one.said)}"
        yield from (f"   fix:  {line}" for fix in one.fix for line in plain(fix).splitlines())
        yield f"   page: {one.page}"
    for one in diagnoses:
        # Under an entry that has a finding too: a hint is for the reader, whatever else was found.
        yield from (f"look at entry {one.number}, {one.entry}: {one_line(hint)}" for hint in one.hints)
    clear = [f"{one.entry} ({', '.join(one.looked)})" for one in diagnoses if one.state is State.CLEAR]
    if clear:
        yield f"nothing found: {'; '.join(clear)}"
    blind = [(one, step) for one in diagnoses for step in one.not_looked]
    if blind:
        yield "not looked at:"
    for one, step in blind:
        yield f"   {'! ' if step.hindered else ''}{one.entry}/{step.step}: {one_line(step.why)}"
    yield f"{_verdict(diagnoses)} on {machine_class} in {seconds:.1f} s; only read, nothing loaded or changed"


def _verdict(diagnoses: Sequence[Diagnosis]) -> str:
    found = sum(one.state is State.FOUND for one in diagnoses)
    if found:
        return f"{found} of {len(diagnoses)} entries found something"
    if exit_status(diagnoses):
        return "cannot say: what is marked ! above could not look"
    return "nothing found by what could look"


def nagios_status(diagnoses: Sequence[Diagnosis]) -> int:
    """Nagios' own codes: 2 critical from severity high on, 1 warning below, 3 where it could not be told, 0 well."""
    status = exit_status(diagnoses)
    if status == 1:
        return NAGIOS_CRITICAL if grave(diagnoses) else NAGIOS_WARNING
    return NAGIOS_UNKNOWN if status else NAGIOS_OK


def as_nagios(diagnoses: Sequence[Diagnosis], seconds: float) -> str:
    """One line: state, what was found, performance data behind the bar."""
    found = [one for one in diagnoses if one.findings]
    said = "; ".join(f"{one.entry}: {one.said}" for one in found) or _verdict(diagnoses)
    hindered = sum(blind.hindered for one in diagnoses for blind in one.not_looked)
    data = f"entries_found={len(found)} steps_hindered={hindered} time={seconds:.3f}s"
    # The bar begins performance data, so none may stand in the text.
    return f"RUNBOOK {_NAGIOS_WORDS[nagios_status(diagnoses)]} - {one_line(said).replace('|', '/')} | {data}"


def as_prometheus(diagnoses: Sequence[Diagnosis], seconds: float, now: float) -> str:
    """A textfile for node_exporter's collector; `now` in seconds since the epoch."""
    lines = _family("runbook_diagnose_findings", "Findings of an entry's read-only steps, by severity.")
    for one in diagnoses:
        for severity in sorted({finding.severity.value for finding in one.findings}) or ["none"]:
            count = sum(finding.severity.value == severity for finding in one.findings)
            lines.append(f'runbook_diagnose_findings{{entry="{one.entry}",severity="{severity}"}} {count}')
    lines += _family("runbook_diagnose_looked", "Read-only steps that looked.")
    lines += [f'runbook_diagnose_looked{{entry="{one.entry}"}} {len(one.looked)}' for one in diagnoses]
    lines += _family("runbook_diagnose_hindered", "Steps that should have looked and could not.")
    lines += [f'runbook_diagnose_hindered{{entry="{one.entry}"}} {_hindered(one)}' for one in diagnoses]
    for name, text, value in (
        (
            "exit_status",
            "What the command ends with: 0 nothing found, 1 found, 3 cannot say.",
            exit_status(diagnoses),
        ),
        ("duration_seconds", "How long the look took.", round(seconds, 3)),
        ("timestamp_seconds", "When it ended, seconds since the epoch.", round(now, 3)),
    ):
        lines += [*_family(f"runbook_diagnose_{name}", text), f"runbook_diagnose_{name} {value}"]
    return "\n".join(lines) + "\n"


def _hindered(one: Diagnosis) -> int:
    return sum(blind.hindered for blind in one.not_looked)


def _family(name: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
