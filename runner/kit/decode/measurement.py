"""The work of `gpt_large_optimized`: environments, job, compile mode, starts, and the findings from them."""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from runner.base.sequential import FEWEST
from runner.hardware.boards import board_of
from runner.hardware.machine import look_visible as look
from runner.kit.budget import budget
from runner.kit.children import ended_by_sigterm
from runner.kit.compile_guard import Guarded
from runner.kit.compile_options import Mode
from runner.kit.decode.arms import DecodeArm, comparisons_of
from runner.kit.decode.defaults import (
    ALIKE,
    COMPARED_ON_CPU_S,
    COMPARED_ON_GPU_S,
    COMPARED_STARTS,
    COMPILED_S,
    EAGER_S,
)
from runner.kit.decode.job import DecodeJob, guard, job_of
from runner.kit.decode.report import decode_measurements, graphs_lost, slow, undecided
from runner.kit.decode.turns import RequestedStarts, take_starts
from runner.kit.leftovers.variables import leftovers, without_leftovers
from runner.kit.options import ENVIRONMENT_FLOOR
from runner.kit.probe import Findings, preset_of, require_torch, say
from runner.kit.usable import require_sharing
from runner.record.model import Measurement

# Share of --timeout in which the guard compiles.
_GUARD_SHARE = 0.25


def measure_decoding(arguments: argparse.Namespace) -> Findings:
    """Measure prefill and decoding, and compare environments if requested.

    Raises:
        InputError: an invalid number, or a model that is unknown or does not fit.
        NotApplicableError: this host cannot run the requested work.
        RunbookError: a rank failed, or did not answer in time.
    """
    require_torch()
    if arguments.timeout is None:
        arguments.timeout = EAGER_S if arguments.compile_mode == "eager" else COMPILED_S
    machine, deadline = look(), time.monotonic() + arguments.timeout
    cores = os.cpu_count() or 1
    environments: Mapping[str, Mapping[str, str]] = {"caller": dict(os.environ)}
    if arguments.compare_environment:
        require_sharing("--compare-environment")
        environments = {**environments, "clean": without_leftovers(os.environ, cores)}
    # Fewer starts than that decide nothing, and a GPU is rarely as busy as to need many times as long for them.
    fewest = FEWEST if arguments.compare_environment and machine.gpus and arguments.budget is None else 1
    if arguments.budget is None:
        compared_s = COMPARED_ON_GPU_S if machine.gpus else COMPARED_ON_CPU_S
        arguments.budget = min(arguments.timeout, compared_s if arguments.compare_environment else math.inf)
    if arguments.decide_at is None:
        arguments.decide_at = ALIKE if machine.gpus else ENVIRONMENT_FLOOR
    if arguments.starts is None:
        arguments.starts = COMPARED_STARTS if arguments.compare_environment else 1
    within, latest = budget(arguments.budget), budget(arguments.timeout)
    free = machine.gpus[0].memory_bytes if machine.gpus else psutil.virtual_memory().available
    job = job_of(arguments, machine, preset_of(arguments), free, len(environments))
    board = board_of(machine.gpus[0].name) if machine.gpus else None
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="decode-guard-") as folder:
        guard_s = arguments.timeout * _GUARD_SHARE
        mode, guarded = guard(job, arguments.compile_mode, guard_s, Path(folder), say)
        environments = _from_the_guards_cache(environments, guarded)
        series = RequestedStarts(
            arguments.starts, arguments.turns, within, deadline, arguments.decide_at, fewest, latest
        )
        taken = take_starts(job, mode, environments, series)
    arms = taken.arms
    labels = {
        "model": job.label,
        "batch_size": job.batch,
        "prompt_length": job.prompt,
        "ranks": job.ranks,
        "mode": str(mode),
    }
    measurements, comparisons = decode_measurements(arms, labels, job, board), comparisons_of(arms)
    stale = [leftover.name for leftover in leftovers(os.environ, cores)]
    symptom = _symptom(measurements, arms["caller"], mode, stale=bool(stale))
    return Findings(
        measurements=measurements,
        status="symptom" if symptom else "ok",
        reason=symptom or undecided(comparisons, arguments.decide_at),
        requested={
            "tensor_parallel_gpus": arguments.tensor_parallel_gpus,
            "compile_mode": arguments.compile_mode,
            "starts": arguments.starts,
            "decide_at": arguments.decide_at,
        },
        effective={
            "model": labels["model"],
            "device": job.device,
            "ranks": job.ranks,
            "compile_mode": str(mode),
            "dtype": taken.ready["dtype"],
            "weights": "random" if job.folder is None else "the folder's",
            "arms": list(arms),
            "starts": len(arms["caller"].starts),
        },
        details={
            "parameters": job.shape.parameters,
            "torch": taken.ready["torch"],
            "leftovers": stale,
            "tokens": taken.tokens,
            "starts": {
                phase: {"taken": len(found.ratios), "undisturbed": len(found.undisturbed)}
                for phase, found in comparisons.items()
            },
            "cuda_graphs": _graphs(arms["caller"], job),
            "compile_cache": dict(arms["caller"].cache),
        },
        fallback_reason=guarded.reason if guarded else None,
        fallback_asked=guarded is not None and guarded.fallback_asked,
    )


def _from_the_guards_cache(
    environments: Mapping[str, Mapping[str, str]], guarded: Guarded | None
) -> Mapping[str, Mapping[str, str]]:
    """The environments, in which processes compile from the guard's cache if the guard compiled anything."""
    if guarded is None or guarded.compiled is None:
        return environments
    cache = str(guarded.compiled.folder / "cache")
    return {name: {**own, "TORCHINDUCTOR_CACHE_DIR": cache} for name, own in environments.items()}


def _symptom(
    measurements: Sequence[Measurement], caller: DecodeArm, mode: Mode, *, stale: bool
) -> str | None:
    lost = graphs_lost(caller) if mode is Mode.WHOLE else None
    return lost or (slow(measurements) if stale else None)


def _graphs(arm: DecodeArm, job: DecodeJob) -> str:
    if job.device == "cpu":
        return "not applicable: no CUDA graphs on a CPU"
    if arm.launches is None:
        return "not counted: too few new tokens"
    return "counted" if arm.launches.plain is not None else "replays counted, launches not: no profiler"
