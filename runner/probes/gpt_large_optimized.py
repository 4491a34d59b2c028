"""Decode with a large model on one GPU (or one CPU): what a server reaches after a rollback from tensor parallel.

Physics. Prefill reads the whole prompt at once and is bound by arithmetic: about 2 × parameters × tokens FLOP. A
decoding step of a small batch reads every weight and the KV cache once, so memory bandwidth bounds it: batch-1
tokens/s ≤ bandwidth ÷ (weight bytes + KV bytes read per token). So the two phases are timed apart, and a setting may
slow one and spare the other: CPU threads matter to prefill, launch overhead to decoding.

The model is a transformers Llama of a preset's shape (or a `config.json`'s) with random weights, or a local folder's
own weights, with a static KV cache; tokens are chosen greedily. Over several GPUs it is cut by tensor parallelism, a
rank a GPU; a host without GPUs uses its cores as ranks. With --compare-environment a second process runs in the
environment that `stale_env --shell` would leave, turn and turn about with the first, and the ratio is taken pair by
pair.

Output: time_to_first_token, time_per_output_token (s; their 95th and 99th percentiles where there are samples for
them), tokens_per_second, prefill_tokens_per_second, bandwidth_utilisation (known boards), peak_memory of a rank, and on
a GPU graph_replays, graph_captures and plain_launches per step, with labels model, batch_size, prompt_length, ranks,
mode, arm (`caller` or `clean`); clean_ratio for each phase. Symptom: the environments differ, and a ratio is surely
below 0.9; or the step was compiled for CUDA graphs and does not re-use them.

Example:
    python -m runner.probes.gpt_large_optimized --tensor-parallel-gpus 1 --skip-compile
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from runner.evidence.record import Measurement
from runner.hardware.boards import board_of
from runner.hardware.machine import look
from runner.probes.compile_guard import Guarded, add_compile_arguments
from runner.probes.compile_guard.spec import Mode
from runner.probes.contract import Findings, Probe, base_parser, preset_of, run_probe, say
from runner.probes.decode.job import Job, guard, job_of
from runner.probes.decode.launches import Launches
from runner.probes.decode.report import Arm, graphs_lost, pairs_of, report, slow
from runner.probes.decode.worker import WARM_STEPS
from runner.probes.leftovers.variables import leftovers, without_leftovers
from runner.probes.ranks import World, ended_by_sigterm
from runner.stats import FEWEST_FOR_BOOTSTRAP

_EAGER_S, _COMPILED_S = 240.0, 900.0
_WARM_UP_TURNS = 2
# Steps whose launches are counted; the turn has that many, or fewer.
_COUNTED_STEPS = 8
# What is left of --timeout for the turns once the guard has tried its rungs.
_GUARD_SHARE = 0.25
# The share of the time then left that turns may take, those taken again included.
_TURNS_SHARE = 0.25
_MOST_REPEATS = 3


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_compile_arguments(parser)
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="tiny, 8b, 40b, 70b or a config.json (random weights), or a model folder with its weights"
        " (default: the largest up to the preset's that fits)",
    )
    parser.add_argument(
        "--tensor-parallel-gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs to cut the model over; on a host without GPUs, ranks on its cores (default 1)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="sequences at once (default 1)"
    )
    parser.add_argument(
        "--prompt-length", type=int, default=256, metavar="N", help="tokens in a prompt (default 256)"
    )
    parser.add_argument(
        "--new-tokens", type=int, default=16, metavar="N", help="tokens to decode a turn (default 16)"
    )
    parser.add_argument(
        "--turns", type=int, default=10, metavar="N", help="prefills, each with its decoding (default 10)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="deadline of all, in seconds (default 240, and 900 where the step is compiled)",
    )
    parser.add_argument(
        "--compare-environment",
        action="store_true",
        help="also run without the leftovers of a multi-GPU launch, interleaved, and report the ratio",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    if arguments.timeout is None:
        arguments.timeout = _EAGER_S if arguments.compile_mode == "eager" else _COMPILED_S
    machine, deadline = look(), time.monotonic() + arguments.timeout
    cores = os.cpu_count() or 1
    environments = {"caller": dict(os.environ)}
    if arguments.compare_environment:
        environments["clean"] = without_leftovers(os.environ, cores)
    free = machine.gpus[0].memory_bytes if machine.gpus else psutil.virtual_memory().available
    job = job_of(arguments, machine, preset_of(arguments), free, len(environments))
    board = board_of(machine.gpus[0].name) if machine.gpus else None
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        mode, guarded = guard(job, arguments.compile_mode, arguments.timeout * _GUARD_SHARE, say)
        ranks = job.ranks if job.ranks > 1 else None
        worlds = {
            arm: stack.enter_context(World(job.program(mode), ranks, environment, deadline, arm))
            for arm, environment in environments.items()
        }
        ready = {arm: world.ask(None, "building the model")[0] for arm, world in worlds.items()}
        arms = {arm: Arm(threads=ready[arm]["threads"]) for arm in worlds}
        tokens = _warm_up(worlds, job)
        latest = time.monotonic() + (deadline - time.monotonic()) * _TURNS_SHARE
        _take_turns(worlds, arms, arguments.turns, job, latest)
        _look_inside(worlds, arms, job, mode)
    labels = {
        "model": job.label,
        "batch_size": job.batch,
        "prompt_length": job.prompt,
        "ranks": job.ranks,
        "mode": str(mode),
    }
    measurements = report(arms, labels, job, board)
    stale = [leftover.name for leftover in leftovers(os.environ, cores)]
    reason = _symptom(measurements, arms["caller"], mode, stale=bool(stale))
    return Findings(
        measurements=measurements,
        status="symptom" if reason else "ok",
        reason=reason,
        requested={
            "tensor_parallel_gpus": arguments.tensor_parallel_gpus,
            "compile_mode": arguments.compile_mode,
        },
        effective={
            "model": labels["model"],
            "device": job.device,
            "ranks": job.ranks,
            "compile_mode": str(mode),
            "dtype": ready["caller"]["dtype"],
            "weights": "random" if job.folder is None else "the folder's",
            "arms": list(arms),
        },
        details={
            "parameters": job.shape.parameters,
            "torch": ready["caller"]["torch"],
            "leftovers": stale,
            "tokens": tokens,
            "pairs": _pairs(arms),
            "cuda_graphs": _graphs(arms["caller"], job),
        },
        **_fallback(guarded),
    )


def _fallback(guarded: Guarded | None) -> dict[str, Any]:
    if guarded is None:
        return {}
    return {"fallback_reason": guarded.reason, "fallback_asked": guarded.fallback_asked}


def _warm_up(worlds: Mapping[str, World], job: Job) -> list[int]:
    """Decode before anything is timed; the tokens that the caller's environment chose."""
    command = {"new_tokens": job.new_tokens}
    tokens: list[int] = []
    for arm, world in worlds.items():
        for _ in range(_WARM_UP_TURNS):
            (answer, *_) = world.ask(command, "warming up")
            tokens = answer["tokens"] if arm == "caller" else tokens
    return tokens


def _take_turns(
    worlds: Mapping[str, World], arms: Mapping[str, Arm], turns: int, job: Job, latest: float
) -> None:
    """Decode turn and turn about; where other work disturbed it, up to three times as often.

    At `latest` it ends with the turns that there are, unless they are too few to say how they spread.
    """
    turn = 0
    while turn < turns or (turn < turns * _MOST_REPEATS and _disturbed(arms, turns)):
        if time.monotonic() > latest and turn >= FEWEST_FOR_BOOTSTRAP:
            say(f"{turn} turns in the time there is")
            return
        # ABBA: neither arm always goes first, so that a drift of the machine cancels.
        for arm, world in list(worlds.items())[:: -1 if turn % 2 else 1]:
            arms[arm].add(world.ask({"new_tokens": job.new_tokens}, "decoding"))
        turn += 1


def _disturbed(arms: Mapping[str, Arm], wanted: int) -> bool:
    """Whether a comparison still lacks pairs that were left in peace."""
    if "clean" not in arms:
        return False
    return any(len(pairs.undisturbed) < wanted for pairs in pairs_of(arms["caller"], arms["clean"]).values())


def _look_inside(worlds: Mapping[str, World], arms: Mapping[str, Arm], job: Job, mode: Mode) -> None:
    """Peak memory and launches, in turns that are not timed: looking costs time."""
    for name, world in worlds.items():
        arm = arms[name]
        # Without a device's allocator only an eager model in one process shows its storages.
        if job.device == "cuda" or (job.ranks == 1 and mode is Mode.EAGER):
            answers = world.ask({"peak": job.new_tokens}, "measuring memory")
            arm.peak = max(answer["peak"] for answer in answers)
        steps = min(_COUNTED_STEPS, job.new_tokens - 1 - WARM_STEPS)
        if job.device == "cuda" and steps > 0:
            counts = [answer["launches"] for answer in world.ask({"launches": steps}, "counting launches")]
            if all(counts):
                arm.launches = min((Launches(**found) for found in counts), key=lambda found: found.replays)
                arm.counted_steps = steps


def _symptom(measurements: Sequence[Measurement], caller: Arm, mode: Mode, *, stale: bool) -> str | None:
    lost = graphs_lost(caller) if mode is Mode.WHOLE else None
    return lost or (slow(measurements) if stale else None)


def _pairs(arms: Mapping[str, Arm]) -> dict[str, dict[str, int]]:
    if "clean" not in arms:
        return {}
    return {
        phase: {"taken": len(pairs.ratios), "undisturbed": len(pairs.undisturbed)}
        for phase, pairs in pairs_of(arms["caller"], arms["clean"]).items()
    }


def _graphs(arm: Arm, job: Job) -> str:
    if job.device == "cpu":
        return "not applicable: a CPU has no CUDA graphs"
    return "not counted: too few new tokens, or no profiler" if arm.launches is None else "counted"


PROBE = Probe("gpt_large_optimized", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
