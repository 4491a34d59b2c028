"""Runs the reader's own command under the guard, and writes the bundle."""

import argparse
import shlex
import tempfile
from pathlib import Path

from runner.base.errors import RunbookError
from runner.hardware.machine import Machine
from runner.kit.compile_guard.command import Watched, last_output, watch_command
from runner.kit.compile_guard.stacks import in_words
from runner.kit.probe import Findings, say, single
from runner.kit.repro import bundle

DEADLINE_S = 900.0
_LABELS = {"mode": "command"}


def command_findings(arguments: argparse.Namespace, machine: Machine) -> Findings:
    """Run the command, write the bundle, and report; the symptom is that it did not finish by its deadline.

    Raises:
        InputError: the command cannot be started, or the bundle cannot be written.
        RunbookError: the command failed in another way than by its deadline; a requested bundle is still written.
    """
    with tempfile.TemporaryDirectory(prefix="torch-compile-repro-") as folder:
        say(f"running {shlex.join(arguments.command)}")
        deadline_s = arguments.deadline or DEADLINE_S
        seen = watch_command(arguments.command, Path(folder) / "1-command", deadline_s)
        kept = None
        if arguments.output_dir is not None:
            case = bundle.Case(arguments={}, deadline_s=deadline_s, injected=None, machine=machine)
            kept = bundle.write(arguments.output_dir, bundle.of_command(seen, case), case.taken)
            say(f"bundle: {kept}")
        if seen.status:
            raise RunbookError(_failed(seen, kept))
    return _report(seen, None if kept is None else kept.name)


def _failed(seen: Watched, kept: Path | None) -> str:
    where = f"all output is in {kept}" if kept else "use --output-dir DIR to keep all output"
    return f"the command exited with status {seen.status}; {last_output(seen.folder)}; {where}"


def _report(seen: Watched, bundle: str | None) -> Findings:
    measurements = [
        single("compile_finished", float(seen.ended), **_LABELS),
        single("processes_left", float(seen.left), **_LABELS),
    ]
    if seen.cpu_share is not None:
        measurements.append(single("compile_cpu_share", seen.cpu_share, **_LABELS, ended=seen.ended))
    return Findings(
        measurements=measurements,
        status="ok" if seen.ended else "symptom",
        reason=None
        if seen.ended
        else f"the command did not finish within {seen.wall_s:.1f} s, {in_words(seen.verdict, seen.where)}",
        details={"command": list(seen.command), "verdict": seen.verdict, "bundle": bundle},
    )
