"""`runbook diagnose`: every entry's read-only Diagnose steps on this node, ranked by their findings."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from runner.base.errors import InputError
from runner.base.plain import json_text
from runner.cli.cluster_arguments import add_cluster_arguments, on_slurm
from runner.cli.diagnosis_formats import as_nagios, as_prometheus, nagios_status
from runner.cli.diagnosis_text import as_text
from runner.entry.read import read_all
from runner.hardware.apart import LookApart, SeenApart
from runner.hardware.nvml import HUNG_VARIABLE
from runner.history.golden import node_settings
from runner.record.code import node_alias
from runner.record.diagnosis import Diagnosis, as_json, diagnosis_status, ends_service
from runner.record.step_findings import gravest
from runner.run.diagnosing import Look, diagnose, judging

FORMATS = ("text", "json", "nagios", "prometheus")
DEADLINE_S = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--format", choices=FORMATS, default="text", help="output format (default text)")
    form.add_argument(
        "--json", dest="format", action="store_const", const="json", help="the same as --format json"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="list every step that is not run here, with the reason"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write to FILE, which is replaced as a whole"
    )
    parser.add_argument(
        "--pid",
        type=int,
        metavar="PID",
        help="check the environment of this running process instead of this shell's",
    )
    parser.add_argument(
        "--deadline",
        type=_seconds,
        default=DEADLINE_S,
        metavar="S",
        help=f"time limit for all steps together, in seconds (default {DEADLINE_S:g})",
    )
    parser.add_argument(
        "--prolog",
        action="store_true",
        help="for a Slurm prolog: exit status 1 for findings whose action is reset, drain or replace, 0 in every other "
        "case (also restart, keep and unknown)",
    )
    add_cluster_arguments(parser, lasting=False)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Diagnose and print. Exit status: 0 no findings in the checks that ran, 1 issue found, 3 unknown.

    `--format nagios` has the exit statuses of Nagios.

    Raises:
        InputError: a process that does not exist, or an output file that cannot be written.
    """
    if on_slurm(arguments):
        if arguments.format not in {"text", "json"} or arguments.output or arguments.pid or arguments.prolog:
            raise InputError(
                "--on slurm prints text or --json; --output, --pid, --prolog and other formats are for one node"
            )
        # What a campaign needs is as much to import as all the rest.
        from runner.cli.cluster_diagnose import diagnose_on_slurm  # noqa: PLC0415

        return diagnose_on_slurm(arguments)
    if arguments.prolog and arguments.format == "nagios":
        raise InputError("--prolog and --format nagios both set the exit status; use one of them")
    try:
        return _run(arguments)
    except (Exception, KeyboardInterrupt):
        if arguments.format == "prometheus":
            # An older file would keep the findings of an earlier run. One without entries has the status 3, unknown.
            _put(arguments.output, as_prometheus((), 0.0, time.time()))
        raise


def _run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    environment = dict(os.environ)
    if arguments.pid is not None:
        environment = judging(arguments.pid, environment)
    # The GPUs are read while the entries are.
    with LookApart() as looking:
        runbooks = read_all(arguments.runbooks)
        seen = looking.answer(arguments.deadline)
    if seen.hung:
        # What hung once is not asked again: each step would wait for it as long.
        environment[HUNG_VARIABLE] = ",".join(seen.hung)
    with tempfile.TemporaryDirectory(prefix="runbook-diagnose-", ignore_cleanup_errors=True) as scratch:
        where = Look(
            arguments.places.checkout or Path(scratch), environment, Path(scratch), began + arguments.deadline
        )
        diagnoses = diagnose(runbooks, seen.machine, where)
    _put(arguments.output, _formatted(arguments, diagnoses, seen, time.monotonic() - began))
    if arguments.prolog:
        return int(ends_service(diagnoses))
    return nagios_status(diagnoses) if arguments.format == "nagios" else diagnosis_status(diagnoses)


def _formatted(
    arguments: argparse.Namespace, diagnoses: Sequence[Diagnosis], seen: SeenApart, seconds: float
) -> str:
    form, machine = arguments.format, seen.machine
    if form == "nagios":
        return as_nagios(diagnoses, seconds) + "\n"
    if form == "prometheus":
        return as_prometheus(diagnoses, seconds, time.time())
    if form == "json":
        document = {
            "node_alias": node_alias(),
            "machine_class": machine.machine_class,
            "simulated": machine.simulated,
            "gpu_error": machine.gpu_error,
            "nvml_hung": list(seen.hung),
            "duration_s": round(seconds, 3),
            "exit_status": diagnosis_status(diagnoses),
            "settings": node_settings(node_alias(), machine, (one.settings for one in diagnoses)).settings,
            "action": gravest([one.action for one in diagnoses]),
            "ends_service": ends_service(diagnoses),
            "entries": as_json(diagnoses),
        }
        return json_text(document) + "\n"
    problem = machine.gpu_error
    if problem is None and seen.hung:
        problem = f"NVML: {' and '.join(seen.hung)} did not return"
    to_terminal = arguments.output is None and sys.stdout.isatty()
    lines = as_text(
        diagnoses,
        machine.machine_class,
        seconds,
        width=shutil.get_terminal_size().columns if to_terminal else None,
        verbose=arguments.verbose,
        gpu_problem=problem,
    )
    return "".join(f"{line}\n" for line in lines)


def _put(output: Path | None, text: str) -> None:
    """Print, or replace an older file by all of the text or not at all: node_exporter may read it at any moment."""
    if output is None:
        print(text, end="")
        return
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(output)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {output}: {error.strerror}; name a file in a folder that you can write to"
        ) from error
