"""Decode with a large model on one GPU (or one CPU): the speed of a server after a rollback from tensor parallelism.

Physics. Prefill reads the whole prompt at once and is bound by compute: about 2 × parameters × tokens FLOP. A decoding
step of a small batch reads every weight and the KV cache once and is bound by memory bandwidth: batch-1 tokens/s ≤
bandwidth ÷ (weight bytes + KV bytes read per token). So the two phases are timed separately, and a setting may slow
only one of them: CPU threads affect prefill, launch overhead affects decoding.

The model is a transformers Llama with the shape of a preset or a `config.json` and random weights, or a local folder
with its own weights, with a static KV cache and greedy decoding. On several GPUs it is split by tensor parallelism, one
rank per GPU; a host without GPUs uses its cores as ranks.

With --compare-environment, a second process runs in the environment that `stale_env --shell` would leave, interleaved
with the first. Both are started several times, because two processes in one environment differ by some percent for
their whole life; each start gives one ratio. Starts end when the ratios decide whether they reach --decide-at
(`runner.base.sequential`: error at most 2.5 % on either side, for each phase), or at the time limit; the result is then
reported as undecided.

Output: time_to_first_token, time_per_output_token (s; 95th and 99th percentiles if there are enough samples),
tokens_per_second, prefill_tokens_per_second, bandwidth_utilisation (known boards), peak_memory of a rank, and on a GPU
graph_replays, graph_captures and plain_launches per step, with labels model, batch_size, prompt_length, ranks, mode,
arm (`caller` or `clean`); clean_ratio for each phase, the geometric mean over starts. With several starts, samples are
the medians of the starts; percentiles are over all turns. Symptom: the environments differ and the 95 % CI of a ratio
is below 0.9; or the step was compiled for CUDA graphs and does not replay them.

Example:
    python -m runner.probes.gpt_large_optimized --tensor-parallel-gpus 1 --skip-compile
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from runner.base.sequential import FEWEST, MOST
from runner.hardware.boards import board_of
from runner.hardware.machine import look_visible as look
from runner.kit.budget import budget
from runner.kit.children import ended_by_sigterm
from runner.kit.compile_guard import Guarded, add_compile_arguments
from runner.kit.compile_guard.spec import Mode
from runner.kit.decode.arms import DecodeArm, comparisons_of
from runner.kit.decode.job import DecodeJob, guard, job_of
from runner.kit.decode.metrics import METRICS
from runner.kit.decode.report import decode_measurements, graphs_lost, slow, undecided
from runner.kit.decode.turns import RequestedStarts, take_starts
from runner.kit.interleaved import ENVIRONMENT_FLOOR
from runner.kit.leftovers.variables import leftovers, without_leftovers
from runner.kit.options import BATCH_SIZE, add_counts, add_flags, add_model, add_numbers
from runner.kit.probe import Findings, Probe, base_parser, preset_of, require_torch, say
from runner.kit.usable import require_sharing
from runner.record.model import Measurement
from runner.vocabulary.model import Compiles

_EAGER_S, _COMPILED_S = 240.0, 900.0
# Share of --timeout in which the guard compiles.
_GUARD_SHARE = 0.25
_COMPARED_STARTS = 20
# Ratio that two equal environments must reach. On a CPU starts differ by more, and there is less time.
_ALIKE = 0.95
# A comparison on a CPU demonstrates the fault, within half a minute on a slow machine. On a GPU a start takes a few
# seconds: 16 GB of weights, the first use of each kernel, and twice so in two environments.
_COMPARED_ON_CPU_S, _COMPARED_ON_GPU_S = 26.0, 60.0


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_compile_arguments(parser)
    kinds = "or a config.json (random weights), or a model folder with its weights"
    add_model(parser, "the largest that fits, up to the preset", kinds, "NAME")
    add_counts(
        parser,
        {
            "--tensor-parallel-gpus": (
                1,
                "GPUs to split the model over; on a host without GPUs, ranks on its cores",
            ),
            **BATCH_SIZE,
            "--prompt-length": (256, "tokens in a prompt"),
            "--new-tokens": (16, "tokens to decode per turn"),
            "--turns": (10, "turns per process, each a prefill with its decoding"),
            "--starts": "processes of each environment, one after another; with --compare-environment the"
            f" maximum, from {FEWEST} to {MOST} (default 1, with --compare-environment {_COMPARED_STARTS})",
        },
    )
    decide = (
        "stop comparing when it is decided whether every ratio reaches X"
        f" (default: {_ALIKE:g} on a GPU, {ENVIRONMENT_FLOOR:g} on a CPU)"
    )
    add_numbers(parser, "X", {"--decide-at": decide})
    limits = {
        "--budget": f"time limit of all starts in seconds (default: {_COMPARED_ON_CPU_S:g} to compare on a CPU,"
        f" {_COMPARED_ON_GPU_S:g} to compare on a GPU, where {FEWEST} starts are taken in any case, else --timeout; at"
        " most the time of the step)",
        "--timeout": "seconds until a process that does not answer is an error (default 240, or 900 if the step is"
        " compiled)",
    }
    add_numbers(parser, "S", limits)
    said = "also run without the leftovers of a multi-GPU launch, interleaved, and report the ratio"
    add_flags(parser, {"--compare-environment": said})
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    require_torch()
    if arguments.timeout is None:
        arguments.timeout = _EAGER_S if arguments.compile_mode == "eager" else _COMPILED_S
    machine, deadline = look(), time.monotonic() + arguments.timeout
    cores = os.cpu_count() or 1
    environments: Mapping[str, Mapping[str, str]] = {"caller": dict(os.environ)}
    if arguments.compare_environment:
        require_sharing("--compare-environment")
        environments = {**environments, "clean": without_leftovers(os.environ, cores)}
    # Fewer starts than that decide nothing, and a GPU is rarely as busy as to need many times as long for them.
    fewest = FEWEST if arguments.compare_environment and machine.gpus and arguments.budget is None else 1
    if arguments.budget is None:
        compared_s = _COMPARED_ON_GPU_S if machine.gpus else _COMPARED_ON_CPU_S
        arguments.budget = min(arguments.timeout, compared_s if arguments.compare_environment else math.inf)
    if arguments.decide_at is None:
        arguments.decide_at = _ALIKE if machine.gpus else ENVIRONMENT_FLOOR
    if arguments.starts is None:
        arguments.starts = _COMPARED_STARTS if arguments.compare_environment else 1
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


PROBE = Probe(
    "gpt_large_optimized",
    method_version=4,
    summary="Prefill and greedy decoding of a large model with a static KV cache",
    metrics=METRICS,
    labels=("model", "batch_size", "prompt_length", "ranks", "mode", "arm", "phase"),
    compiles=Compiles(),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
