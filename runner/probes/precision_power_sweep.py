"""Compare precisions on the same work: time, energy and accuracy of a token in each.

Physics. A prefill of many tokens is bound by GEMMs, 2 × parameters floating-point operations per token. FP8 halves the
bytes and, on FP8 tensor cores, doubles the rate. Quantising costs extra passes over the activations, so FP8 is faster
only if these are fused (`torch.compile`). Energy is power × time: an FP8 mode that is slower than BF16, or that did not
run in FP8, has fewer tokens per joule. An idle GPU draws a large share of its power, so joules are given with and
without idle power.

    python -m runner.probes.precision_power_sweep --modes fp16 bf16 fp8 fp8_te
    python -m runner.probes.precision_power_sweep --modes bf16 fp8 --scales artifacts/fp8/recalibration.json
    python -m runner.probes.precision_power_sweep --price-per-kwh 0.12 --pue 1.3

Every mode reads the same tokens with the same weights, in windows in ABBA order, after a warm-up. Energy comes from the
hardware's counter; without a counter it is absent, with the reason, and so is a window in which the counter was
unreliable. `fp8` is torchao's dynamic row-wise FP8 on a GPU with compute capability 8.9 or later, and this project's
own layer on a CPU and with `--scales`; `fp8_te` is Transformer Engine's. A mode that cannot run reports why. The GEMM
kernels of each FP8 mode are checked: if an FP8 mode's GEMMs ran in non-FP8 kernels, the step fails (unrequested
fallback). If the native FP8 GEMM fails or is far too slow on this CPU, `fp8` multiplies the same values in fp32:
`effective` reports that, its accuracy is measured, and its speed and energy, which would not be those of FP8, are left
out.

signal_to_noise is that of the whole model, where noise grows from block to block. It compares modes on one work, and no
bound applies to it; `fp8_transformer_engine` judges each layer.

The number of windows is reduced on a CPU to fit about 12 s by default, and everywhere to fit the step's time; see
`effective.windows`. On a GPU, windows with energy come first: idle power is measured after them, and models are not
compiled if that would leave no time for the windows; fp16 is left out if only that leaves it. `energy_ratio` states
whether both models were compiled, because FP8 in eager is not FP8 as it is served.
Exit status: 0 measured, 2 bad input, 3 measurement failed, 80 not applicable.
"""

import argparse
import math
import sys
from functools import partial
from typing import Any

from runner.base.errors import InputError
from runner.entry.model import Scalar
from runner.kit.budget import Budget, budget
from runner.kit.compile_guard import add_compile_arguments
from runner.kit.options import add_counts, add_numbers
from runner.kit.precision.building import Asked, SweptModes, build_modes
from runner.kit.precision.choice import Prefill, add_work_arguments, choose_work, sample_tokens, scales_from
from runner.kit.precision.compiled import EAGER, Compiled
from runner.kit.precision.counters import EnergyError, counters_of
from runner.kit.precision.measuring import (
    ROUNDS,
    ROUNDS_WITH_ENERGY,
    WINDOW_S,
    Energy,
    Tally,
    Timed,
    Windows,
    timed,
)
from runner.kit.precision.metrics import SWEEP
from runner.kit.precision.reporting import cost, of_modes
from runner.kit.precision.scales import Scales
from runner.kit.probe import Findings, NotApplicableError, Probe, base_parser, say, single
from runner.vocabulary.model import Compiles

MODES = ("fp16", "bf16", "fp8", "fp8_te")
_LONGEST_WINDOW_S = 600
_WINDOWS_ON_CPU_S = 12.0


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="precisions to compare (default: all)"
    )
    add_work_arguments(parser)
    rounds = (
        "ABBA rounds, with two windows per mode each"
        f" (default {ROUNDS_WITH_ENERGY} with an energy counter, else {ROUNDS}; on a CPU fewer if time is short)"
    )
    add_counts(parser, {"--rounds": rounds})
    window = f"seconds per window (default {WINDOW_S:g}; with a GPU's energy counter 5)"
    add_numbers(parser, "S", {"--window": window})
    add_numbers(
        parser,
        "X",
        {
            "--price-per-kwh": "price of a kWh in any currency (default: report no cost)",
            "--pue": (1.0, "power usage effectiveness, for the cost"),
        },
    )
    # On a CPU, compiling takes longer than it saves, so by default only a GPU compiles.
    add_compile_arguments(parser, default="on a GPU per-block, else eager; on a CPU eager")
    add_numbers(parser, "S", {"--compile-deadline": (240.0, "deadline of compiling each mode in seconds")})
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    _check(arguments)
    whole = budget(math.inf)
    work = choose_work(arguments, modes=arguments.modes)
    scales = scales_from(arguments, work.shape)
    asked = Asked(arguments.modes, arguments.compile_mode, arguments.compile_deadline, arguments.scales)
    swept, compiled = build_modes(asked, work, scales, whole)
    if not swept.arms:
        said = "; ".join(f"{mode}: {why}" for mode, why in swept.unavailable.items())
        raise NotApplicableError(f"no mode can run on this host: {said}")
    windows = _time(arguments, work, swept, whole)
    found = windows.tally
    labels: dict[str, Scalar] = {"model": work.name, "batch_size": work.batch_size, "tokens": work.tokens}
    shares = {mode: proof.share for mode, proof in swept.proofs.items() if proof.share is not None}
    in_eager = {mode for mode in swept.arms if compiled.rung(mode) == EAGER}
    measurements = of_modes(found, swept.accuracy, shares, work.shape, labels, swept.arms.keys() - in_eager)
    if windows.idle is not None:
        measurements.append(single("idle_power", windows.idle, **labels))
    if arguments.price_per_kwh is not None:
        measurements += cost(found, arguments.price_per_kwh, arguments.pue, labels)
    return Findings(
        measurements=measurements,
        reason="; ".join(_not_measured(swept, found)) or None,
        requested={
            "modes": arguments.modes,
            "precision": {mode: mode for mode in arguments.modes},
            "compile_mode": arguments.compile_mode,
            "model": arguments.model,
            "windows": windows.asked,
        },
        effective=_effective(swept, found, compiled, work, scales) | {"windows": windows.taken},
        fallback_reason="; ".join(filter(None, (swept.fallback, compiled.fallback_reason))) or None,
        # A lower rung of the ladder was requested; another precision never is.
        fallback_asked=compiled.fallback_asked and swept.fallback is None,
        details={
            "unavailable": swept.unavailable,
            "layers_left": {mode: dict(left) for mode, left in swept.left.items() if left},
            "census": {mode: dict(census) for mode, census in swept.census.items()},
            "kernels": {mode: dict(proof.by_kernel) for mode, proof in swept.proofs.items()},
            "no_fp8_share": swept.unproved,
            "energy": list(windows.counters),
            "no_energy": found.no_energy,
            "no_idle_power": windows.no_idle,
            "energy_refused": list(found.refused),
            "window_s": windows.window_s,
            "not_timed": swept.untimed,
        },
    )


def _not_measured(swept: SweptModes, found: Tally) -> list[str]:
    said = [f"energy not measured: {found.no_energy}"] if found.no_energy else []
    return said + [f"FP8 share of {mode} not measured: {why}" for mode, why in swept.unproved.items()]


def _time(arguments: argparse.Namespace, work: Prefill, swept: SweptModes, whole: Budget) -> Timed:
    tokens = sample_tokens(work)
    arms = {mode: arm for mode, arm in swept.arms.items() if mode not in swept.untimed}
    # A number given on the command line, or a GPU's default, is reduced only to fit the step's own time.
    short = work.device == "cpu" and arguments.window is None and arguments.rounds is None
    allowance = Budget(min(whole.ends, budget(_WINDOWS_ON_CPU_S).ends)) if short else whole
    found = timed(
        {mode: partial(arm.forward, tokens) for mode, arm in arms.items()},
        tokens.numel(),
        _energy(work.device),
        Windows(arguments.window, arguments.rounds),
        allowance,
    )
    if found.taken < found.asked:
        say(f"took {found.taken} of {found.asked} windows per mode: time limit")
    for line in found.tally.refused[:3]:
        say(f"energy refused: {line}")
    if found.tally.no_energy:
        say(f"energy not measured: {found.tally.no_energy}")
    return found


def _check(arguments: argparse.Namespace) -> None:
    few = arguments.rounds is not None and arguments.rounds < 1
    if few or (arguments.window is not None and not 0 < arguments.window <= _LONGEST_WINDOW_S):
        raise InputError("--rounds must be 1 or more, and --window above 0 and at most 600 seconds")
    if not 1 <= arguments.pue < math.inf:
        raise InputError("--pue must be 1 or more: total power of a site ÷ power of its computers")
    if arguments.price_per_kwh is not None and not 0 <= arguments.price_per_kwh < math.inf:
        raise InputError("--price-per-kwh must be 0 or more")
    if not 0 < arguments.compile_deadline < math.inf:
        raise InputError("--compile-deadline must be above 0 seconds")


def _energy(device: str) -> Energy:
    try:
        return Energy(*counters_of(device))
    except EnergyError as error:
        return Energy(missing=str(error))


def _effective(
    swept: SweptModes, found: Tally, compiled: Compiled, work: Prefill, scales: Scales | None
) -> dict[str, Any]:
    from runner.kit.precision.arms import library_versions

    return {
        "modes": list(swept.arms),
        "precision": {mode: swept.precision(mode) for mode in swept.arms},
        "implementation": {mode: arm.implementation for mode, arm in swept.arms.items()},
        "compile_mode": {mode: compiled.rung(mode) for mode in swept.arms},
        "throttled_by": {mode: list(taken.throttled_by) for mode, taken in found.taken.items()},
        "scales": {
            mode: f"static, {scales.recipe}" if scales and mode == "fp8" else "dynamic"
            for mode in swept.proofs
        },
        "model": work.name,
        "device": work.device,
        "versions": library_versions(),
    }


PROBE = Probe(
    "precision_power_sweep",
    method_version=3,
    summary="Speed, energy and accuracy of a prefill in each precision, interleaved",
    metrics=SWEEP,
    labels=("model", "batch_size", "tokens", "mode", "compiled", "price_per_kwh", "pue"),
    # The entry's question is one of energy; without a counter, speed is what is left.
    compiles=Compiles(on_cpu_with=("--compile-mode",)),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
