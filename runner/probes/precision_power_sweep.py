"""What does a token cost in time, energy and accuracy, in each precision, on the same work?

The physics: a prefill of many tokens is bound by matrix products, 2 × parameters floating-point operations a token.
FP8 halves the bytes and, on tensor cores that have it, doubles the rate; quantising costs extra passes over the
activations, which only pay where they are fused (`torch.compile`). Energy is power × time: an FP8 that is slower than
BF16, or that never ran, shows here as fewer tokens per joule.

    python -m runner.probes.precision_power_sweep --modes fp16 bf16 fp8 fp8_te
    python -m runner.probes.precision_power_sweep --modes bf16 fp8 --scales artifacts/fp8/recalibration.json

Every mode reads the same tokens with the same weights, window by window in ABBA order, warmed up before. Energy comes
from the hardware's own counter; without one it is absent, with the reason. A mode that cannot run says why.
Exit status: 0 measured, 2 bad input, 3 could not measure, 80 not applicable here.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.errors import InputError
from runner.evidence.record import Measurement
from runner.models import ModelShape
from runner.probes.contract import (
    Findings,
    NotApplicableError,
    Probe,
    base_parser,
    measured,
    run_probe,
    say,
    single,
)
from runner.probes.precision.choice import add_work_arguments, choose_work, sample_tokens, scales_from
from runner.probes.precision.energy import (
    Counter,
    EnergyError,
    Window,
    nvml_counter,
    rapl_counter,
    run_window,
)
from runner.units import format_value

if TYPE_CHECKING:
    import torch

    from runner.probes.precision.arms import Arm

MODES = ("fp16", "bf16", "fp8", "fp8_te")
BASELINE = "bf16"
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
# A counter needs five seconds; a clock does not.
_WINDOW_WITH_ENERGY_S, _WINDOW_S = 5.0, 0.4
_WARM_UP_ITERATIONS = 2


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="precisions to compare (default: all)"
    )
    add_work_arguments(parser)
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="ABBA rounds: two windows a mode each (default 3)"
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="S",
        help=f"seconds a window (default {_WINDOW_WITH_ENERGY_S:g} with an energy counter, else {_WINDOW_S:g})",
    )
    parser.add_argument("--skip-compile", action="store_true", help="run every mode in eager mode")
    parser.add_argument(
        "--compile-mode",
        choices=COMPILE_MODES,
        help="of torch.compile, block by block (default: default on a GPU, eager on a CPU)",
    )
    return parser


@dataclass
class _Taken:
    """Samples of one mode, a window each; energy ones are empty where `no_energy` says why."""

    rate: list[float] = field(default_factory=list)
    per_joule: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Sweep:
    taken: Mapping[str, _Taken]
    accuracy: Mapping[str, float]
    unavailable: Mapping[str, str]
    left: Mapping[str, Mapping[str, str]]
    counter: str | None
    no_energy: str | None
    window_s: float


def _run(arguments: argparse.Namespace) -> Findings:
    work = choose_work(arguments, modes=arguments.modes)
    compile_mode = _compile_mode(arguments, work.device)
    scales = scales_from(arguments, work.shape)
    tokens = sample_tokens(work)
    static = None if scales is None else scales.inputs
    sweep = _sweep(arguments, work.shape, tokens, static, compile_mode)
    labels = {"model": work.name, "batch_size": work.batch_size, "tokens": work.tokens}
    said = "; ".join(f"{mode}: {why}" for mode, why in sweep.unavailable.items())
    if not sweep.taken:
        raise NotApplicableError(f"no mode can run here: {said}")
    return Findings(
        measurements=_report(sweep, work.shape, labels),
        requested={
            "modes": arguments.modes,
            "compile_mode": arguments.compile_mode,
            "model": arguments.model,
        },
        effective={
            "modes": list(sweep.taken),
            "compile_mode": compile_mode,
            "model": work.name,
            "device": work.device,
            "scales": "dynamic" if static is None else "static",
        },
        details={
            "unavailable": dict(sweep.unavailable),
            "layers_left": {mode: dict(left) for mode, left in sweep.left.items() if left},
            "energy": sweep.counter,
            "no_energy": sweep.no_energy,
            "window_s": sweep.window_s,
        },
    )


def _compile_mode(arguments: argparse.Namespace, device: str) -> str | None:
    if arguments.skip_compile and arguments.compile_mode:
        raise InputError("--skip-compile and --compile-mode contradict each other; give one")
    if arguments.rounds < 1 or (arguments.window is not None and not 0 < arguments.window <= 600):  # noqa: PLR2004
        raise InputError("--rounds must be 1 or more, and --window above 0 and at most 600 seconds")
    if arguments.skip_compile:
        return None
    return arguments.compile_mode or ("default" if device == "cuda" else None)


def _sweep(
    arguments: argparse.Namespace,
    shape: ModelShape,
    tokens: "torch.Tensor",
    static: Mapping[str, float] | None,
    compile_mode: str | None,
) -> _Sweep:
    from runner.probes.precision.arms import Arm, UnavailableError, build_arm, reference, signal_to_noise

    device = tokens.device.type
    exact = reference(shape, device, tokens)
    arms: dict[str, Arm] = {}
    accuracy, unavailable = {}, {}
    for mode in dict.fromkeys(arguments.modes):
        try:
            arms[mode] = build_arm(
                mode, shape, device, static=static if mode == "fp8" else None, compile_mode=compile_mode
            )
        except UnavailableError as why:
            unavailable[mode] = str(why)
            say(f"{mode}: left out, {why}")
            continue
        accuracy[mode] = signal_to_noise(arms[mode].forward(tokens), exact)
    del exact
    counter, no_energy = _counter(device)
    window_s = arguments.window or (_WINDOW_WITH_ENERGY_S if counter else _WINDOW_S)
    windows = _windows(arms, tokens, counter, window_s, arguments.rounds) if arms else {}
    taken = {
        mode: _Taken([one.iterations * tokens.numel() / one.seconds for one in windows[mode]])
        for mode in windows
    }
    if counter is not None:
        try:
            for mode, of_mode in windows.items():
                joules = [one.joules_per_iteration(counter.tick_s) for one in of_mode]
                taken[mode].per_joule = [tokens.numel() / one for one in joules]
                taken[mode].watts = [
                    one * window.iterations / window.seconds
                    for one, window in zip(joules, of_mode, strict=True)
                ]
        except EnergyError as error:
            no_energy = str(error)
            taken = {mode: _Taken(found.rate) for mode, found in taken.items()}
    if no_energy:
        say(f"no energy: {no_energy}")
    return _Sweep(
        taken,
        accuracy,
        unavailable,
        {mode: arm.left for mode, arm in arms.items()},
        counter.name if counter else None,
        no_energy,
        window_s,
    )


def _counter(device: str) -> tuple[Counter | None, str | None]:
    """The energy counter of the device that works, or why there is none."""
    try:
        if device == "cpu":
            return rapl_counter(), None
        import torch

        return nvml_counter(f"GPU-{torch.cuda.get_device_properties(0).uuid}"), None
    except EnergyError as error:
        return None, str(error)


def _windows(
    arms: Mapping[str, "Arm"], tokens: "torch.Tensor", counter: Counter | None, seconds: float, rounds: int
) -> dict[str, list[Window]]:
    """Windows of every mode. A counter that disappears on the way is an energy that was never read."""
    windows: dict[str, list[Window]] = {mode: [] for mode in arms}

    def once(arm: "Arm") -> Any:
        return lambda: arm.forward(tokens)

    for arm in arms.values():
        for _ in range(_WARM_UP_ITERATIONS):
            arm.forward(tokens)
    for turn in range(2 * rounds):
        # ABBA: no mode always comes first, so that a drift of clocks and temperature cancels.
        for mode in list(arms)[:: -1 if turn % 2 else 1]:
            try:
                windows[mode].append(run_window(once(arms[mode]), seconds, counter))
            except EnergyError as error:
                say(f"{error}; going on without")
                counter = None
                windows[mode].append(run_window(once(arms[mode]), seconds, None))
    return windows


def _report(sweep: _Sweep, shape: ModelShape, labels: Mapping[str, Any]) -> list[Measurement]:
    found: list[Measurement] = []
    operations = 2 * shape.layers * shape.block_parameters
    for mode, taken in sweep.taken.items():
        own = {**labels, "mode": mode}
        found += [
            measured("prefill_tokens_per_second", taken.rate, **own),
            measured("flop_rate", [operations * rate for rate in taken.rate], **own),
            single("signal_to_noise", sweep.accuracy[mode], **own),
        ]
        said = (
            f"{mode}: {format_value(found[-3].value, 'token/s')}, {format_value(found[-2].value, 'FLOP/s')},"
        )
        said += f" {format_value(sweep.accuracy[mode], 'dB')} against fp32"
        if taken.per_joule:
            found += [
                measured("tokens_per_joule", taken.per_joule, **own),
                measured("power", taken.watts, **own),
            ]
            said += f", {format_value(found[-2].value, 'token/J')} at {format_value(found[-1].value, 'W')}"
        say(said)
    base = sweep.taken.get(BASELINE)
    for mode, taken in sweep.taken.items() if base else ():
        if mode == BASELINE or base is None:
            continue
        pairs = [ours / theirs for ours, theirs in zip(taken.rate, base.rate, strict=True)]
        found.append(measured("speed_ratio", pairs, **labels, mode=mode))
        if taken.per_joule:
            pairs = [ours / theirs for ours, theirs in zip(taken.per_joule, base.per_joule, strict=True)]
            found.append(measured("energy_ratio", pairs, **labels, mode=mode))
    return found


PROBE = Probe("precision_power_sweep", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
