"""Decode with a large model on one GPU (or one CPU): what a server reaches after a rollback from tensor parallel.

Physics. Prefill reads the whole prompt at once and is bound by arithmetic: about 2 × parameters × tokens FLOP. A
decoding step of a small batch reads every weight and the KV cache once, so memory bandwidth bounds it: batch-1
tokens/s ≤ bandwidth ÷ (weight bytes + KV bytes read per token). So the two phases are timed apart, and a setting may
slow one and spare the other: CPU threads matter to prefill, launch overhead to decoding.

The model is a transformers Llama of a preset's shape with random weights and a static KV cache; tokens are chosen
greedily. With --compare-environment a second process runs in the environment that `stale_env --shell` would leave,
turn and turn about with the first, and the ratio is taken pair by pair.

Output: time_to_first_token, time_per_output_token (s), tokens_per_second, prefill_tokens_per_second, peak_memory
(GPU), threads, with labels model, batch_size, prompt_length, mode, arm (`caller` or `clean`); clean_ratio for each
phase. Symptom: the environments differ, and a ratio is surely below 0.9.

Example:
    python -m runner.probes.gpt_large_optimized --tensor-parallel-gpus 1 --skip-compile
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from runner.errors import InputError
from runner.evidence.record import Measurement
from runner.hardware.machine import look
from runner.models import ModelShape, model_shape
from runner.presets import PRESETS
from runner.probes.contract import (
    Findings,
    NotApplicableError,
    Probe,
    base_parser,
    measured,
    preset_of,
    run_probe,
    say,
    single,
)
from runner.probes.ranks import World, ended_by_sigterm
from runner.probes.stale_variables import leftovers, without_leftovers
from runner.stats import median_interval
from runner.units import format_value

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# Below this share of the clean environment's speed the caller's environment is called the fault.
RATIO_FLOOR = 0.9
_WARM_UP_TURNS = 2


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="tiny, 8b, 40b, 70b or a model folder (default: the largest up to the preset's that fits on one GPU)",
    )
    parser.add_argument(
        "--tensor-parallel-gpus", type=int, default=1, metavar="N", help="GPUs to shard over (default 1)"
    )
    parser.add_argument("--skip-compile", action="store_true", help="decode in eager mode")
    parser.add_argument(
        "--compile-mode",
        choices=COMPILE_MODES,
        help="of torch.compile (default: reduce-overhead on a GPU; on a CPU eager, as compiling takes minutes there)",
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
        "--timeout", type=float, default=240.0, metavar="S", help="deadline of all, in seconds"
    )
    parser.add_argument(
        "--compare-environment",
        action="store_true",
        help="also run without the leftovers of a multi-GPU launch, interleaved, and report the ratio",
    )
    return parser


@dataclass
class _Arm:
    world: World
    first: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    peak: int | None = None


def _run(arguments: argparse.Namespace) -> Findings:
    device, memory = _device()
    mode = _mode(arguments, device)
    cores = os.cpu_count() or 1
    environments = {"caller": dict(os.environ)}
    if arguments.compare_environment:
        environments["clean"] = without_leftovers(os.environ, cores)
    _check(arguments)
    shape = _choose(arguments, device, memory, len(environments))
    program = _program(arguments, shape, device, mode)
    deadline = time.monotonic() + arguments.timeout
    labels = {
        # A folder by its last name: the way there is nobody's business.
        "model": Path(shape.name).name,
        "batch_size": arguments.batch_size,
        "prompt_length": arguments.prompt_length,
        "mode": mode or "eager",
    }
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        arms = {
            arm: _Arm(stack.enter_context(World(program, None, environment, deadline, arm)))
            for arm, environment in environments.items()
        }
        ready = {name: arm.world.ask(None, "building the model")[0] for name, arm in arms.items()}
        _take_turns(arms, arguments.turns, arguments.new_tokens)
    measurements = _report(arms, labels, arguments)
    measurements += [single("threads", ready[name]["threads"], **labels, arm=name) for name in arms]
    stale = [leftover.name for leftover in leftovers(os.environ, cores)]
    reason = _symptom(measurements) if stale else None
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
            "device": device,
            "compile_mode": mode,
            "dtype": ready["caller"]["dtype"],
            "arms": list(arms),
        },
        details={"parameters": shape.parameters, "torch": ready["caller"]["torch"], "leftovers": stale},
    )


def _device() -> tuple[str, int]:
    """`cuda` or `cpu`, and its memory in bytes."""
    machine = look()
    if machine.gpus:
        return "cuda", machine.gpus[0].memory_bytes
    return "cpu", psutil.virtual_memory().available


def _mode(arguments: argparse.Namespace, device: str) -> str | None:
    if arguments.skip_compile and arguments.compile_mode:
        raise InputError("--skip-compile and --compile-mode contradict each other; give one")
    if arguments.skip_compile:
        return None
    return arguments.compile_mode or ("reduce-overhead" if device == "cuda" else None)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything long begins."""
    numbers = {
        "--batch-size": arguments.batch_size,
        "--prompt-length": arguments.prompt_length,
        "--turns": arguments.turns,
        "--timeout": arguments.timeout,
        "--tensor-parallel-gpus": arguments.tensor_parallel_gpus,
    }
    for option, value in numbers.items():
        if value <= 0:
            raise InputError(f"{option} must be above zero, not {value}")
    if arguments.new_tokens < 2:  # noqa: PLR2004 - the first token is prefill's, so one alone times no step
        raise InputError(
            f"--new-tokens must be 2 or more, not {arguments.new_tokens}: the first is prefill's"
        )
    if arguments.tensor_parallel_gpus > 1:
        raise NotApplicableError(
            f"decoding over {arguments.tensor_parallel_gpus} GPUs is not what this entry measures: it is about the"
            " one GPU after the rollback; use --tensor-parallel-gpus 1"
        )


def _choose(arguments: argparse.Namespace, device: str, memory: int, arms: int) -> ModelShape:
    """The model asked for, or the largest up to the preset's that fits; refused before anything long begins."""
    preset = preset_of(arguments)
    names = [arguments.model] if arguments.model else PRESETS[: PRESETS.index(preset) + 1][::-1]
    for shape in map(model_shape, names):
        length = arguments.prompt_length + arguments.new_tokens
        if length > shape.max_positions:
            raise InputError(
                f"{length} tokens are more than the {shape.max_positions} positions of {shape.name}"
            )
        element = 4 if device == "cpu" else 2
        cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * length * arguments.batch_size
        need = arms * element * (shape.parameters + cache)
        if need <= memory:
            return shape
    processes = f"{arms} processes with {shape.name}" if arms > 1 else shape.name
    raise NotApplicableError(
        f"{processes} need {format_value(need, 'B')} for weights and KV cache, the {device} has"
        f" {format_value(memory, 'B')}; choose a smaller --model, --batch-size or --prompt-length"
    )


def _program(arguments: argparse.Namespace, shape: ModelShape, device: str, mode: str | None) -> list[str]:
    program = ["-m", "runner.probes.gpt_worker", f"--model={shape.name}", f"--device={device}"]
    program += [f"--batch-size={arguments.batch_size}", f"--prompt-length={arguments.prompt_length}"]
    program.append(f"--new-tokens={arguments.new_tokens}")
    return program + ([f"--compile-mode={mode}"] if mode else [])


def _take_turns(arms: Mapping[str, _Arm], turns: int, new_tokens: int) -> None:
    command = {"new_tokens": new_tokens}
    for arm in arms.values():
        for _ in range(_WARM_UP_TURNS):
            arm.world.ask(command, "warming up")
    for turn in range(turns):
        # ABBA: neither arm always goes first, so that a drift of the machine cancels.
        for arm in list(arms.values())[:: -1 if turn % 2 else 1]:
            (answer,) = arm.world.ask(command, "decoding")
            arm.first.append(answer["first"])
            arm.rest += answer["rest"]
            arm.steps.append(median(answer["rest"]))
            arm.peak = answer["peak"]


def _report(
    arms: dict[str, _Arm], labels: Mapping[str, Any], arguments: argparse.Namespace
) -> list[Measurement]:
    batch, prompt = arguments.batch_size, arguments.batch_size * arguments.prompt_length
    found: list[Measurement] = []
    # The caller's arm last: it is the one that speaks for the step.
    for name, arm in reversed(arms.items()):
        own = {**labels, "arm": name}
        found += [
            measured("tokens_per_second", [batch / seconds for seconds in arm.rest], **own),
            measured("time_per_output_token", arm.rest, **own),
            measured("time_to_first_token", arm.first, **own),
            measured("prefill_tokens_per_second", [prompt / seconds for seconds in arm.first], **own),
        ]
        if arm.peak is not None:
            found.append(single("peak_memory", arm.peak, **own))
        say(
            f"{name}: first token {format_value(median(arm.first), 's')},"
            f" each further one {format_value(median(arm.rest), 's')},"
            f" {format_value(batch / median(arm.rest), 'token/s')}"
        )
    if "clean" in arms:
        clean, caller = arms["clean"], arms["caller"]
        pairs = {"prefill": (clean.first, caller.first), "decode": (clean.steps, caller.steps)}
        for phase, (ours, theirs) in pairs.items():
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            found.append(measured("clean_ratio", ratios, **labels, phase=phase))
            say(f"{phase}: this environment reaches {median(ratios):.2f} of a clean one")
    return found


def _symptom(measurements: Sequence[Measurement]) -> str | None:
    for found in measurements:
        interval = median_interval(found.samples) if found.name == "clean_ratio" else None
        if interval is not None and interval.high < RATIO_FLOOR:
            return (
                f"{found.labels['phase']} reaches {found.value:.0%} of its speed in a clean environment (at most"
                f" {interval.high:.0%}); python -m runner.probes.stale_env names the leftovers"
            )
    return None


PROBE = Probe("gpt_large_optimized", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
