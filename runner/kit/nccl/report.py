"""The findings of `nccl_env`: where it reads NCCL's settings, and a verdict on each."""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.base.errors import InputError, RunbookError
from runner.base.plain import visible_line
from runner.base.time_limit import answer_within
from runner.base.words import and_more
from runner.kit.judged import judged_pid
from runner.kit.nccl.names import Version, format_version
from runner.kit.nccl.settings import NcclFinding, NcclSetting, judge_setting
from runner.kit.nccl.sources import Found, home_of, read_own, read_process, running_jobs
from runner.kit.nccl.units import UNIT_FOLDERS, read_units
from runner.kit.nccl.values import Judgement
from runner.kit.nccl.version import installed_version
from runner.kit.probe import Findings, say, single
from runner.kit.undo import undo_details
from runner.node.findings import Action

# Values that cannot contain a host name, address or user name.
_PLAIN = re.compile(r"-?\d+|[A-Za-z]{2,6}")

# Reading a file in another process's file system may block.
_LOOK_S = 50.0

# Severity of a fault, for a ranking among entries; other verdicts have none.
_SEVERITY = {Judgement.HARMFUL: "high", Judgement.MISSPELT: "medium"}


@dataclass(frozen=True)
class _Read:
    """What was read.

    Attributes:
        settings: each with the NCCL version that reads it, None if unknown.
        unread: sources that could not be read.
        processes: processes that were read.
        closed: number of processes that were not read for lack of permission.
    """

    settings: dict[NcclSetting, Version | None]
    unread: list[str]
    processes: list[int]
    closed: int = 0


def _read(arguments: argparse.Namespace) -> _Read:
    if arguments.pid:
        return _joined([read_process(pid) for pid in arguments.pid], arguments.pid)
    judged = judged_pid()
    units = UNIT_FOLDERS if arguments.units is None else arguments.units
    found = [_own() if judged is None else read_process(judged), read_units(units)]
    looked_at = [] if judged is None else [judged]
    if not arguments.running:
        return _joined(found, looked_at)
    jobs, closed = running_jobs()
    for pid in jobs:
        if pid == judged:
            continue
        try:
            found.append(read_process(pid))
        except InputError:
            continue  # it ended meanwhile
        except RunbookError:
            closed += 1
            continue
        looked_at.append(pid)
    return _joined(found, looked_at, closed)


def _own() -> Found:
    return read_own(os.environ, home_of(os.getuid()), installed_version())


def _joined(found: Sequence[Found], processes: list[int], closed: int = 0) -> _Read:
    settings: dict[NcclSetting, Version | None] = {}
    for one in found:
        for setting in one.settings:
            # A file that several processes use is one source.
            settings[setting] = settings.get(setting) or one.version
    unread = list(dict.fromkeys(visible_line(line) for one in found for line in one.unread))
    return _Read(settings, unread, processes, closed)


def nccl_findings(arguments: argparse.Namespace) -> Findings:
    """Read the NCCL settings of this node and judge each for the given number of nodes.

    Raises:
        InputError: the number of nodes is not positive.
        RunbookError: a process or a mount does not answer.
    """
    if arguments.nodes < 1:
        raise InputError("--nodes must be 1 or more")
    try:
        read = answer_within(_LOOK_S, lambda: _read(arguments))
    except TimeoutError as error:
        raise RunbookError(
            f"a process or a mount does not answer ({error}); use --pid, or --units without"
            " folders, to skip the others"
        ) from error
    findings = [
        judge_setting(setting, arguments.nodes, version) for setting, version in read.settings.items()
    ]
    faults = [finding for finding in findings if finding.judgement.is_fault]
    for finding in findings:
        setting = finding.setting
        shown = f"{setting.name}={setting.value} ({setting.source})"
        say(visible_line(f"{finding.judgement:9} {shown}: {finding.why}"))
        if finding in faults:
            say(f"{'':9} undo: {setting.undo}")
    if not findings:
        say("no NCCL setting found: NCCL uses its defaults")
    for line in read.unread:
        say(f"not read: {line}")
    if read.closed:
        say(f"{read.closed} processes of other users were not read; run as root to include them")
    return Findings(
        measurements=[
            single("harmful_settings", len(faults), nodes=arguments.nodes),
            single("nccl_settings", len(findings), nodes=arguments.nodes),
        ],
        status="symptom" if faults else "ok",
        reason=_reason(faults, arguments.nodes),
        requested={"nodes": arguments.nodes, "pid": arguments.pid, "running": arguments.running},
        details={
            "findings": [_as_dict(finding) for finding in findings],
            "nccl": sorted({format_version(version) for version in read.settings.values() if version}),
            "unread": read.unread,
            "processes": read.processes,
            "processes_closed": read.closed,
            **undo_details(fault.setting.undo for fault in faults),
        },
    )


def _reason(faults: Sequence[NcclFinding], nodes: int) -> str | None:
    if not faults:
        return None
    worst = next((fault for fault in faults if fault.judgement is Judgement.HARMFUL), faults[0])
    scope = "one node" if nodes == 1 else f"{nodes} nodes"
    where = f"{worst.setting.name} ({worst.setting.source})"
    return visible_line(f"{where} is {worst.judgement} on {scope}: {worst.why}{and_more(len(faults))}")


def _as_dict(finding: NcclFinding) -> dict[str, object]:
    setting = finding.setting
    return {
        "name": setting.name,
        "value": setting.value if _PLAIN.fullmatch(setting.value) else None,
        "source": setting.source,
        "judgement": str(finding.judgement),
        "severity": _SEVERITY.get(finding.judgement),
        # NCCL reads its settings when the job starts; the node is sound.
        "action": Action.RESTART.value if finding.judgement.is_fault else None,
        "why": finding.why,
        "undo": setting.undo.text if finding.judgement.is_fault else None,
    }
