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
from typing import Any

import psutil

from runner.hardware.boards import board_of
from runner.hardware.machine import look_visible as look
from runner.kit.budget import budget
from runner.kit.children import ended_by_sigterm
from runner.kit.compile_guard import Guarded, add_compile_arguments
from runner.kit.compile_guard.spec import Mode
from runner.kit.decode.arms import Arm, compared
from runner.kit.decode.job import Job, guard, job_of
from runner.kit.decode.metrics import METRICS
from runner.kit.decode.report import RATIO_FLOOR, graphs_lost, report, slow, undecided
from runner.kit.decode.turns import Series, take
from runner.kit.leftovers.variables import leftovers, without_leftovers
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
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="tiny, 8b, 40b, 70b or a config.json (random weights), or a model folder with its weights"
        " (default: the largest that fits, up to the preset)",
    )
    parser.add_argument(
        "--tensor-parallel-gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs to split the model over; on a host without GPUs, ranks on its cores (default 1)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="batch size in sequences (default 1)"
    )
    parser.add_argument(
        "--prompt-length", type=int, default=256, metavar="N", help="tokens in a prompt (default 256)"
    )
    parser.add_argument(
        "--new-tokens", type=int, default=16, metavar="N", help="tokens to decode per turn (default 16)"
    )
    parser.add_argument(
        "--turns",
        type=int,
        default=10,
        metavar="N",
        help="turns per process, each a prefill with its decoding (default 10)",
    )
    parser.add_argument(
        "--starts",
        type=int,
        metavar="N",
        help=f"processes of each environment, one after another; with --compare-environment the maximum, from {FEWEST}"
        f" to {MOST} (default 1, with --compare-environment {_COMPARED_STARTS})",
    )
    parser.add_argument(
        "--decide-at",
        type=float,
        metavar="X",
        help="stop comparing when it is decided whether every ratio reaches X"
        f" (default: {_ALIKE:g} on a GPU, {RATIO_FLOOR:g} on a CPU)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="S",
        help=f"time limit of all starts in seconds (default: {_COMPARED_ON_CPU_S:g} to compare on a CPU,"
        f" {_COMPARED_ON_GPU_S:g} to compare on a GPU, where {FEWEST} starts are taken in any case, else --timeout; at"
        " most the time of the step)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds until a process that does not answer is an error (default 240, or 900 if the step is"
        " compiled)",
    )
    parser.add_argument(
        "--compare-environment",
        action="store_true",
        help="also run without the leftovers of a multi-GPU launch, interleaved, and report the ratio",
    )
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
        arguments.decide_at = _ALIKE if machine.gpus else RATIO_FLOOR
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
        series = Series(
            arguments.starts, arguments.turns, within, deadline, arguments.decide_at, fewest, latest
        )
        taken = take(job, mode, environments, series)
    arms = taken.arms
    labels = {
        "model": job.label,
        "batch_size": job.batch,
        "prompt_length": job.prompt,
        "ranks": job.ranks,
        "mode": str(mode),
    }
    measurements = report(arms, labels, job, board)
    stale = [leftover.name for leftover in leftovers(os.environ, cores)]
    symptom = _symptom(measurements, arms["caller"], mode, stale=bool(stale))
    return Findings(
        measurements=measurements,
        status="symptom" if symptom else "ok",
        reason=symptom or _undecided(arms, arguments.decide_at),
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
            "starts": _starts(arms),
            "cuda_graphs": _graphs(arms["caller"], job),
            "compile_cache": dict(arms["caller"].cache),
        },
        **_fallback(guarded),
    )


def _from_the_guards_cache(
    environments: Mapping[str, Mapping[str, str]], guarded: Guarded | None
) -> Mapping[str, Mapping[str, str]]:
    """The environments, in which processes compile from the guard's cache if the guard compiled anything."""
    if guarded is None or guarded.compiled is None:
        return environments
    cache = str(guarded.compiled.folder / "cache")
    return {name: {**own, "TORCHINDUCTOR_CACHE_DIR": cache} for name, own in environments.items()}


def _fallback(guarded: Guarded | None) -> dict[str, Any]:
    if guarded is None:
        return {}
    return {"fallback_reason": guarded.reason, "fallback_asked": guarded.fallback_asked}


def _symptom(measurements: Sequence[Measurement], caller: Arm, mode: Mode, *, stale: bool) -> str | None:
    lost = graphs_lost(caller) if mode is Mode.WHOLE else None
    return lost or (slow(measurements) if stale else None)


def _undecided(arms: Mapping[str, Arm], bound: float) -> str | None:
    return undecided(compared(arms["caller"], arms["clean"]), bound) if "clean" in arms else None


def _starts(arms: Mapping[str, Arm]) -> dict[str, dict[str, int]]:
    if "clean" not in arms:
        return {}
    return {
        phase: {"taken": len(comparison.ratios), "undisturbed": len(comparison.undisturbed)}
        for phase, comparison in compared(arms["caller"], arms["clean"]).items()
    }


def _graphs(arm: Arm, job: Job) -> str:
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
