"""The findings of `stale_env`: leftovers of a multi-GPU launch, and which of them harm."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path

from runner.base.environment import environment_of
from runner.base.plain import visible_line
from runner.base.remedy import Remedy
from runner.base.words import and_more
from runner.hardware.visible import NAME
from runner.kit.judged import judged_pid
from runner.kit.leftovers.serving_config import read_sizes
from runner.kit.leftovers.variables import Harm, Leftover, leftovers
from runner.kit.leftovers.visibility import cpu_nodes, gpu_nodes, own_cpus, remarks
from runner.kit.probe import Findings, say, single
from runner.kit.undo import undo_details
from runner.node.findings import Action

# Values that cannot contain a host name, address or user name.
_PLAIN = re.compile(r"-?[\d,]+|(?i:true|false|on|off|yes|no|nvl|sys)")


def leftover_findings(arguments: argparse.Namespace) -> Findings:
    """Report the leftovers in an environment and, if given, in a serving configuration."""
    pid = arguments.pid if arguments.pid is not None else judged_pid()
    environment = os.environ if pid is None else environment_of(pid)
    found = leftovers(environment, os.cpu_count() or 1, pid)
    by_hand = _sizes(arguments.config) + _pin(environment, pid or 0)
    harmful = [leftover for leftover in [*found, *by_hand] if leftover.harm is not Harm.LOW]
    for leftover in [*found, *by_hand]:
        say(visible_line(f"{leftover.harm:6} {leftover.name}: {leftover.does}; undo: {leftover.undo}"))
    if not found and not by_hand:
        where = "this environment" if pid is None else f"the environment of process {pid}"
        sizes = (
            "" if arguments.config is None else f", and no tensor-parallel size above 1 in {arguments.config}"
        )
        say(visible_line(f"no leftovers of a multi-GPU launch in {where}{sizes}"))
    return Findings(
        measurements=[single("stale_variables", len(harmful))],
        status="symptom" if harmful else "ok",
        reason=visible_line(f"leftover {harmful[0].name}: {harmful[0].does}{and_more(len(harmful))}")
        if harmful
        else None,
        requested={"of": "this environment" if pid is None else "a running process"},
        details={
            "findings": [_as_dict(leftover) for leftover in [*found, *by_hand]],
            **undo_details(leftover.undo for leftover in [*found, *by_hand]),
        },
    )


def _sizes(config: Path | None) -> list[Leftover]:
    if config is None:
        return []
    return [
        Leftover(
            size.key,
            str(size.value),
            Harm.HIGH,
            f"the configuration requests {size.value} GPUs (line {size.line})",
            Remedy.by_hand("change {} to 1 in {}, line {}", size.key, config.name, str(size.line)),
        )
        for size in read_sizes(config)
    ]


def _pin(environment: Mapping[str, str], pid: int) -> list[Leftover]:
    own, nodes = cpu_nodes(own_cpus(pid))
    return remarks(environment.get(NAME), gpu_nodes(), own, nodes)


def _as_dict(leftover: Leftover) -> dict[str, object]:
    return {
        "name": leftover.name,
        "value": leftover.value if _PLAIN.fullmatch(leftover.value) else None,
        "severity": str(leftover.harm),
        # They act when a program starts; the node is sound.
        "action": None if leftover.harm is Harm.LOW else Action.RESTART.value,
        "does": leftover.does,
        "undo": leftover.undo.text,
    }
