"""Compile a stack of transformer blocks under a guard, measure it, and keep a bundle for a bug report.

Physics. Compile time depends on the size of the traced graph: the number of operations, and so of distinct blocks. It
hardly depends on the number of parameters, because a wide block has the same operations as a narrow one. A healthy
compile also shows a fully busy CPU and an idle GPU. Progress tells slow from stuck: stacks, cache and compiler
processes are observed twice, at different times.

Each compile runs in a child process with an empty cache; at the deadline its stacks are saved and the child and all its
processes are killed. --preset sets the size of the stack; weights are random. Per block, only one block of each kind is
allocated: the 70b stack then needs 4 GB.

Output: seconds (wall and CPU) of the compile with its first forward, CPU share, cache bytes, peak resident memory,
graph breaks, recompiles, and the difference of the compiled output from eager's. Symptom: the compile did not finish by
the deadline in the requested mode. With `--compile-mode smart`, the ladder continues with one block at a time, one
compile thread and eager, and the symptom is that even eager failed. After `--`, any command is run instead, traced and
monitored with the same deadline; the symptom is that it did not finish.

    python -m runner.probes.torch_compile_repro --compile-mode whole --deadline 120
    python -m runner.probes.torch_compile_repro --output-dir artifacts/torch_compile_repro --inject-stall --deadline 10
    python -m runner.probes.torch_compile_repro --output-dir artifacts/torch_compile_repro -- python serve.py
    python -m runner.probes.torch_compile_repro --look 3
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

from runner.base.errors import InputError, RunbookError
from runner.base.units import parse_bytes
from runner.hardware.machine import Machine
from runner.hardware.machine import look_visible as look_at_machine
from runner.kit.children import ended_by_sigterm
from runner.kit.compile_guard import Guarded, Stall, add_compile_arguments, safe_compile
from runner.kit.compile_guard.ladder import TOLERANCE
from runner.kit.probe import (
    Findings,
    NotApplicableError,
    Probe,
    base_parser,
    require_torch,
    say,
    single,
)
from runner.kit.repro import block_stack, bundle, live_compiles, report, watched_command
from runner.kit.repro.metrics import REPRO
from runner.kit.repro.stack_size import SIZES, check_memory, parameters
from runner.sizing.presets import default_preset
from runner.vocabulary.model import Compiles


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_compile_arguments(parser)
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write the bundle, one zip file, into DIR (created if missing)",
    )
    parser.add_argument(
        "--deadline",
        type=_positive,
        metavar="SECONDS",
        help="time limit in seconds for all rungs of the ladder together, from when the first one begins to compile"
        " (default: by preset; 900 for a command, from its start)",
    )
    parser.add_argument(
        "--memory-limit",
        type=_bytes,
        metavar="SIZE",
        help="limit on the additional address space of a compiling process, on a host without GPUs (default: none)",
    )
    parser.add_argument(
        "--backward", action="store_true", help="also compile and run a backward pass, and compare gradients"
    )
    parser.add_argument("--blocks", type=int, metavar="N", help="blocks in the stack (default: the preset's)")
    parser.add_argument(
        "--inject-stall",
        nargs="?",
        const=Stall.EVERY_GRAPH.value,
        choices=[kind.value for kind in Stall],
        help="drill: make the compiler hang with a busy CPU, on every graph or only on the whole model",
    )
    parser.add_argument(
        "--warm-start",
        action="store_true",
        help="compile again in a second child that starts from the first one's cache",
    )
    parser.add_argument(
        "--look",
        type=_positive,
        metavar="SECONDS",
        help="do not compile; observe the processes on this node that have torch loaded for S seconds, read-only",
    )
    parser.add_argument(
        "command",
        nargs="*",
        metavar="-- COMMAND",
        help="after `--`: run this command instead, traced and monitored",
    )
    return parser


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _run(arguments: argparse.Namespace) -> Findings:
    if arguments.look is not None:
        return live_compiles.look_findings(arguments.look)
    machine = look_at_machine()
    require_torch()
    if arguments.command:
        with ended_by_sigterm():
            return watched_command.command_findings(arguments, machine)
    preset = arguments.preset or default_preset(len(machine.gpus))
    size = SIZES[preset]
    blocks = size.blocks if arguments.blocks is None else arguments.blocks
    if blocks < 1:
        raise InputError(f"--blocks must be 1 or more, not {blocks}")
    shape = {**size.shape, "blocks": blocks, "device": _device(machine)}
    if arguments.memory_limit is not None and shape["device"] == "cuda":
        raise InputError(
            "--memory-limit limits address space, of which the CUDA driver reserves far more than it uses; omit it on a"
            " host with GPUs"
        )
    check_memory(machine, shape, alone=_alone(arguments), backward=arguments.backward)
    deadline_s = arguments.deadline or size.deadline_s
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="torch-compile-repro-") as folder:
        began = time.monotonic()
        guarded = safe_compile(
            block_stack.build,
            shape,
            mode=arguments.compile_mode,
            deadline_s=deadline_s,
            folder=Path(folder),
            tolerance=TOLERANCE["bfloat16" if shape["device"] == "cuda" else "float32"],
            backward=arguments.backward,
            memory_bytes=arguments.memory_limit,
            warm_start=arguments.warm_start,
            stall=Stall(arguments.inject_stall) if arguments.inject_stall else None,
            report=say,
        )
        guard_s = time.monotonic() - began
        kept = None
        if arguments.output_dir is not None:
            case = bundle.Case(shape, deadline_s, arguments.inject_stall, machine)
            kept = bundle.write(arguments.output_dir, bundle.of_guarded(guarded, case), case.taken)
            say(f"bundle: {kept}")
    return _findings(
        arguments, guarded, preset=preset, shape=shape, guard_s=guard_s, deadline_s=deadline_s, kept=kept
    )


def _alone(arguments: argparse.Namespace) -> bool:
    """Whether no child needs the whole model."""
    return arguments.compile_mode in {"per-block", "one-thread"} and not arguments.warm_start


def _device(machine: Machine) -> str:
    if not machine.gpus:
        return "cpu"
    if machine.cuda is None:
        raise NotApplicableError(
            f"this host has GPUs, but torch {machine.torch} has no CUDA; use the Python of the job"
        )
    return "cuda"


def _findings(
    arguments: argparse.Namespace,
    guarded: Guarded,
    *,
    preset: str,
    shape: dict[str, int | str],
    guard_s: float,
    deadline_s: float,
    kept: Path | None,
) -> Findings:
    failed = [attempt for attempt in guarded.attempts if attempt.outcome != "finished"]
    stopped = guarded.effective is None
    if stopped and not any(attempt.outcome == "deadline" for attempt in failed):
        # A compile that crashed or gives wrong output is another fault than the one that this probe looks for.
        raise RunbookError(f"measurement failed: {guarded.reason}")
    measurements = [one for attempt in guarded.attempts for one in report.measurements(attempt, preset)]
    measurements += report.warm_measurements(guarded, preset)
    labels = {"preset": preset, "mode": guarded.requested}
    if not stopped:
        measurements.append(single("guard_time", guard_s, **labels))
    late_s = report.overrun_s(guarded, guard_s, deadline_s)
    if late_s is not None:
        measurements.append(single("deadline_overrun", late_s, **labels))
    measurements.append(single("processes_left", report.processes_left(guarded), **labels))
    return Findings(
        measurements=measurements,
        status="symptom" if stopped else "ok",
        reason=guarded.reason if stopped or not failed else f"fell back to {guarded.effective}",
        requested={"compile_mode": guarded.requested},
        effective={"compile_mode": guarded.effective},
        fallback_reason=None if stopped else guarded.reason,
        fallback_asked=guarded.fallback_asked,
        details={
            "injected_stall": arguments.inject_stall,
            "stack": shape,
            "parameters": parameters(shape),
            "attempts": [report.account(attempt) for attempt in guarded.attempts],
            "warm": None if guarded.warm is None else report.account(guarded.warm),
            "bundle": None if kept is None else kept.name,
        },
    )


PROBE = Probe(
    "torch_compile_repro",
    method_version=2,
    summary="A guarded torch.compile of a block stack, with a bundle for a bug report",
    metrics=REPRO,
    labels=("preset", "mode", "ended", "start"),
    # After `--` comes the reader's own program. An injected stall stops the compile before the compiler.
    compiles=Compiles(unless=("--look", "--skip-compile", "--compile-mode=eager", "--", "--inject-stall")),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
