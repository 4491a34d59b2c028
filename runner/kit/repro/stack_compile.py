"""The guarded compile of `torch_compile_repro`: its sizes and checks, its bundle and its findings."""

import argparse
import tempfile
import time
from pathlib import Path

from runner.base.errors import InputError, RunbookError
from runner.hardware.machine import Machine
from runner.hardware.machine import look_visible as look_at_machine
from runner.kit.children import ended_by_sigterm
from runner.kit.compile_guard import Guarded, safe_compile
from runner.kit.compile_guard.ladder import TOLERANCE
from runner.kit.compile_options import Stall
from runner.kit.probe import Findings, NotApplicableError, require_torch, say, single
from runner.kit.repro import block_stack, bundle, live_compiles, report, watched_command
from runner.kit.repro.stack_size import SIZES, check_memory, parameters
from runner.sizing.presets import default_preset


def stack_findings(arguments: argparse.Namespace) -> Findings:
    """Compile a stack of blocks under the guard, or watch a command, or look at this node, as the arguments say.

    Raises:
        InputError: an argument cannot be used on this host.
        NotApplicableError: this host has GPUs, but torch cannot use them.
        RunbookError: the compile failed otherwise than by its deadline.
    """
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
