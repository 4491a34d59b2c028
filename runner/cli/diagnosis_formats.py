"""A diagnosis as a line for Nagios, and as a text file for Prometheus' node_exporter."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from runner.base.plain import one_line
from runner.cli.diagnosis_text import verdict_of
from runner.record.diagnosis import Diagnosis, diagnosis_status, grave

NAGIOS_OK, NAGIOS_WARNING, NAGIOS_CRITICAL, NAGIOS_UNKNOWN = range(4)
_NAGIOS_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def nagios_status(diagnoses: Sequence[Diagnosis]) -> int:
    """Nagios' own codes: 2 critical, 1 warning, 3 unknown, 0 no findings.

    Critical is what ends the node's service (reset, drain, replace), and severity high where no action is known.
    """
    status = diagnosis_status(diagnoses)
    if status == 1:
        return NAGIOS_CRITICAL if grave(diagnoses) else NAGIOS_WARNING
    return NAGIOS_UNKNOWN if status else NAGIOS_OK


def as_nagios(diagnoses: Sequence[Diagnosis], seconds: float) -> str:
    """One line: the state, the findings, and performance data after the bar."""
    found = [one for one in diagnoses if one.findings]
    said = "; ".join(map(_said, found)) or verdict_of(diagnoses)
    blocked = sum(one.blocked for one in diagnoses)
    data = f"entries_found={len(found)} steps_blocked={blocked} time={seconds:.3f}s"
    # The bar begins the performance data, so the text must not have one.
    return f"RUNBOOK {_NAGIOS_WORDS[nagios_status(diagnoses)]} - {one_line(said).replace('|', '/')} | {data}"


def _said(one: Diagnosis) -> str:
    # The reason of a probe that names actions begins with one.
    action = one.action
    begins = "" if action is None or one.said.startswith(f"{action}: ") else f"{action}: "
    return f"{one.entry}: {begins}{one.said}"


def as_prometheus(diagnoses: Sequence[Diagnosis], seconds: float, now: float) -> str:
    """A textfile for node_exporter's collector; `now` in seconds since the epoch."""
    findings, actions = {}, {}
    for one in diagnoses:
        found = Counter(finding.severity.value for finding in one.findings) or Counter({"none": 0})
        for severity, count in sorted(found.items()):
            findings[f'{{entry="{one.entry}",severity="{severity}"}}'] = count
        todo = Counter(single.action or "none" for finding in one.findings for single in finding.singles)
        for action, count in sorted((todo or Counter({"none": 0})).items()):
            actions[f'{{entry="{one.entry}",action="{action}"}}'] = count
    entries = {f'{{entry="{one.entry}"}}': one for one in diagnoses}
    looked = {labels: len(one.looked) for labels, one in entries.items()}
    blocked = {labels: one.blocked for labels, one in entries.items()}
    status = {"": diagnosis_status(diagnoses)}
    status_help = "Exit status: 0 no findings in the checks that ran, 1 issue found, 3 unknown."
    lines = [
        *_family("findings", "Findings of an entry's read-only steps, by severity.", findings),
        *_family("actions", "Single findings of an entry's read-only steps, by what must be done.", actions),
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
