"""What steers NCCL on this node, each setting judged: NVLink left unused is more often told to be than broken.

The environment and NCCL's files are read ($NCCL_CONF_FILE, else ~/.nccl.conf, and /etc/nccl.conf); nothing is run
and no GPU is looked at. A setting is the default, part of the system's description, harmless, tuning, a legacy
spelling, unknown, misspelt (so without effect), or harmful for a job on `--nodes N` nodes.

Output: nccl_settings and harmful_settings (label nodes); details.findings has each setting, what it does and the
line that undoes it. Symptom: a setting is harmful or misspelt.

Example:
    NCCL_P2P_DISABLE=1 python -m runner.probes.nccl_env
    eval "$(python -m runner.probes.nccl_env --shell)"
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.errors import InputError
from runner.probes.contract import Findings, Probe, base_parser, say, single
from runner.probes.nccl_settings import Finding, Judgement, judge, read_settings
from runner.probes.undo import add_shell_option, run_or_undo

# Values that can name no host, address or person.
_PLAIN = re.compile(r"-?\d+|[A-Za-z]{2,6}")

# How bad a fault is, for a ranking among entries; what is no fault has none.
_SEVERITY = {Judgement.HARMFUL: "high", Judgement.MISSPELT: "medium"}


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--nodes", type=int, default=1, metavar="N", help="nodes of the job to judge for (default 1)"
    )
    add_shell_option(parser)
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    if arguments.nodes < 1:
        raise InputError("--nodes must be 1 or more")
    settings = read_settings(os.environ, Path.home())
    findings = [judge(setting, arguments.nodes) for setting in settings]
    faults = [finding for finding in findings if finding.judgement.is_fault]
    for finding in findings:
        setting = finding.setting
        say(f"{finding.judgement:9} {setting.name}={setting.value} ({setting.source}): {finding.why}")
        if finding in faults:
            say(f"{'':9} undo: {setting.undo}")
    if not findings:
        say("nothing sets NCCL here: it runs with its defaults")
    return Findings(
        measurements=[
            single("harmful_settings", len(faults), nodes=arguments.nodes),
            single("nccl_settings", len(findings), nodes=arguments.nodes),
        ],
        status="symptom" if faults else "ok",
        reason=_reason(faults, arguments.nodes),
        requested={"nodes": arguments.nodes},
        details={
            "findings": [_told(finding) for finding in findings],
            "undo": [fault.setting.undo for fault in faults if fault.setting.source == "environment"],
            "by_hand": [fault.setting.undo for fault in faults if fault.setting.source != "environment"],
        },
    )


def _reason(faults: Sequence[Finding], nodes: int) -> str | None:
    if not faults:
        return None
    worst = next((fault for fault in faults if fault.judgement is Judgement.HARMFUL), faults[0])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    scope = "one node" if nodes == 1 else f"{nodes} nodes"
    return f"{worst.setting.name} is {worst.judgement} on {scope}: {worst.why}{more}"


def _told(finding: Finding) -> dict[str, object]:
    setting = finding.setting
    return {
        "name": setting.name,
        "value": setting.value if _PLAIN.fullmatch(setting.value) else None,
        "source": setting.source,
        "judgement": str(finding.judgement),
        "severity": _SEVERITY.get(finding.judgement),
        "why": finding.why,
        "undo": setting.undo if finding.judgement.is_fault else None,
    }


PROBE = Probe("nccl_env", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_or_undo(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
