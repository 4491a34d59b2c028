"""What does a token cost in time, energy and accuracy, in each precision, on the same work?

The physics: a prefill of many tokens is bound by matrix products, 2 × parameters floating-point operations a token.
FP8 halves the bytes and, on tensor cores that have it, doubles the rate; quantising costs extra passes over the
activations, which only pay where they are fused (`torch.compile`). Energy is power × time: an FP8 that is slower than
BF16, or that never ran, shows here as fewer tokens per joule. A GPU that idles draws a good share of its power, so
joules are given with idle power and without.

    python -m runner.probes.precision_power_sweep --modes fp16 bf16 fp8 fp8_te
    python -m runner.probes.precision_power_sweep --modes bf16 fp8 --scales artifacts/fp8/recalibration.json
    python -m runner.probes.precision_power_sweep --price-per-kwh 0.12 --pue 1.3

Every mode reads the same tokens with the same weights, window by window in ABBA order, warmed up before. Energy comes
from the hardware's own counter; without one it is absent, with the reason, and so is every window in which the counter
could not be believed. `fp8` is torchao's dynamic row-wise FP8 on a GPU of compute capability 8.9 or more, and this
project's own layer on a CPU and with `--scales`; `fp8_te` is Transformer Engine's. A mode that cannot run says why.
Which kernels multiplied is looked up for each FP8 mode: one that multiplied in something else is a fallback and fails.
Exit status: 0 measured, 2 bad input, 3 could not measure, 80 not applicable here.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.entry.model import Scalar
from runner.errors import InputError
from runner.probes.compile_guard import add_compile_arguments
from runner.probes.contract import (
    Findings,
    NotApplicableError,
    Probe,
    base_parser,
    run_probe,
    say,
    single,
)
from runner.probes.precision.choice import Work, add_work_arguments, choose_work, sample_tokens, scales_from
from runner.probes.precision.counters import EnergyError, counters_of
from runner.probes.precision.measuring import Energy, Tally, idle_watts, interleaved, tally
from runner.probes.precision.reporting import BASELINE, cost, of_modes

if TYPE_CHECKING:
    import torch

    from runner.probes.precision.arms import Arm
    from runner.probes.precision.compiled import Compiled
    from runner.probes.precision.proof import Proof
    from runner.probes.precision.scales import Scales

MODES = ("fp16", "bf16", "fp8", "fp8_te")
# A counter needs five seconds; a clock does not. Twelve windows a mode let a comparison find a change of 3 % in 1 % of
# noise; speed on a CPU is noisier than twelve windows would help.
_WINDOW_WITH_ENERGY_S, _ROUNDS_WITH_ENERGY = 5.0, 6
_WINDOW_S, _ROUNDS = 0.2, 3
_LONGEST_WINDOW_S = 600
# Less than this share of the products' time in FP8 is not the precision that was asked for.
_MOSTLY = 0.5


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=list(MODES), help="precisions to compare (default: all)"
    )
    add_work_arguments(parser)
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="ABBA rounds: two windows a mode each"
        f" (default {_ROUNDS_WITH_ENERGY} with an energy counter, else {_ROUNDS})",
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="S",
        help=f"seconds a window (default {_WINDOW_WITH_ENERGY_S:g} with an energy counter, else {_WINDOW_S:g})",
    )
    parser.add_argument(
        "--price-per-kwh", type=float, metavar="X", help="in any currency; without it no cost is given"
    )
    parser.add_argument(
        "--pue",
        type=float,
        default=1.0,
        metavar="X",
        help="power usage effectiveness for the cost (default 1)",
    )
    add_compile_arguments(parser)
    # On a CPU compiling takes longer than it gains here: without a word, only a GPU compiles.
    parser.set_defaults(compile_mode=None)
    parser.add_argument(
        "--compile-deadline", type=float, default=240.0, metavar="S", help="for each mode (default 240)"
    )
    return parser


@dataclass
class _Swept:
    """The arms that ran and what was found of them, by mode; and why others did not run."""

    arms: dict[str, "Arm"] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    proofs: dict[str, "Proof"] = field(default_factory=dict)
    left: dict[str, Mapping[str, str]] = field(default_factory=dict)
    census: dict[str, Mapping[str, int]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def precision(self, mode: str) -> str:
        """What a mode's products really ran in."""
        proof = self.proofs.get(mode)
        return mode if proof is None or proof.share >= _MOSTLY else BASELINE


def _run(arguments: argparse.Namespace) -> Findings:
    _check(arguments)
    work = choose_work(arguments, modes=arguments.modes)
    scales = scales_from(arguments, work.shape)
    swept, compiled = _build(arguments, work, scales)
    if not swept.arms:
        said = "; ".join(f"{mode}: {why}" for mode, why in swept.unavailable.items())
        raise NotApplicableError(f"no mode can run here: {said}")
    tokens = sample_tokens(work)
    energy = _energy(work.device)
    window_s = arguments.window or (_WINDOW_WITH_ENERGY_S if energy.counters else _WINDOW_S)
    idle, no_idle = idle_watts(energy, window_s)
    windows = interleaved(
        {mode: partial(arm.forward, tokens) for mode, arm in swept.arms.items()},
        energy,
        window_s,
        arguments.rounds or (_ROUNDS_WITH_ENERGY if energy.counters else _ROUNDS),
    )
    found = tally(windows, tokens.numel(), idle, energy.missing)
    for line in found.refused[:3]:
        say(f"energy refused: {line}")
    if found.no_energy:
        say(f"no energy: {found.no_energy}")
    labels: dict[str, Scalar] = {"model": work.name, "batch_size": work.batch_size, "tokens": work.tokens}
    shares = {mode: proof.share for mode, proof in swept.proofs.items()}
    measurements = of_modes(found, swept.accuracy, shares, work.shape, labels)
    if idle is not None:
        measurements.append(single("idle_power", idle, **labels))
    if arguments.price_per_kwh is not None:
        measurements += cost(found, arguments.price_per_kwh, arguments.pue, labels)
    return Findings(
        measurements=measurements,
        reason=f"no energy was measured: {found.no_energy}" if found.no_energy else None,
        requested={
            "modes": arguments.modes,
            "precision": {mode: mode for mode in arguments.modes},
            "compile_mode": arguments.compile_mode,
            "model": arguments.model,
        },
        effective=_effective(swept, found, compiled, work, scales),
        fallback_reason=_fallback(swept, compiled),
        # A lower rung of the ladder was asked for; another precision never is.
        fallback_asked=compiled.fallback_asked and _fallback(swept, None) is None,
        details={
            "unavailable": swept.unavailable,
            "layers_left": {mode: dict(left) for mode, left in swept.left.items() if left},
            "census": {mode: dict(census) for mode, census in swept.census.items()},
            "kernels": {mode: dict(proof.by_kernel) for mode, proof in swept.proofs.items()},
            "energy": sorted({counter.name for counter in energy.counters}),
            "no_energy": found.no_energy,
            "no_idle_power": no_idle,
            "energy_refused": list(found.refused),
            "window_s": window_s,
        },
    )


def _check(arguments: argparse.Namespace) -> None:
    few = arguments.rounds is not None and arguments.rounds < 1
    if few or (arguments.window is not None and not 0 < arguments.window <= _LONGEST_WINDOW_S):
        raise InputError("--rounds must be 1 or more, and --window above 0 and at most 600 seconds")
    if not 1 <= arguments.pue < math.inf:
        raise InputError("--pue must be 1 or more: it is all of a site's power over what its computers draw")
    if arguments.price_per_kwh is not None and not 0 <= arguments.price_per_kwh < math.inf:
        raise InputError("--price-per-kwh must be 0 or more")
    if not 0 < arguments.compile_deadline < math.inf:
        raise InputError("--compile-deadline must be above 0 seconds")


def _build(arguments: argparse.Namespace, work: Work, scales: "Scales | None") -> tuple[_Swept, "Compiled"]:
    """Build every mode that can run, look at what it computes with, and compile it."""
    from runner.probes.precision.arms import build_arm, reference, signal_to_noise, unavailable
    from runner.probes.precision.compiled import find_rungs

    swept = _Swept()
    runnable = []
    for mode in dict.fromkeys(arguments.modes):
        why_not = unavailable(mode, work.device, static=scales is not None)
        if why_not is None:
            runnable.append(mode)
        else:
            swept.unavailable[mode] = why_not
    path = str(arguments.scales.resolve()) if arguments.scales else None
    compiled = find_rungs(arguments.compile_mode, runnable, work, path, arguments.compile_deadline)
    tokens = sample_tokens(work)
    exact = reference(work.shape, work.device, tokens)
    for mode in runnable:
        why_not = compiled.why_not(mode)
        if why_not is not None:
            swept.unavailable[mode] = why_not
            continue
        arm = build_arm(mode, work.shape, work.device, scales if mode == "fp8" else None)
        if arm.implementation is not None:
            _look(swept, arm, tokens)
        if mode in compiled.guarded:
            compiled.guarded[mode].apply(arm.module)
        swept.arms[mode] = arm
        swept.accuracy[mode] = signal_to_noise(arm.forward(tokens), exact)
    for mode, why_not in swept.unavailable.items():
        say(f"{mode}: left out, {why_not}")
    return swept, compiled


def _look(swept: _Swept, arm: "Arm", tokens: "torch.Tensor") -> None:
    """Which kernels multiply in an arm's layers; before it is compiled, while layers can still be told apart."""
    from runner.probes.precision.proof import calibrated_matcher, census, kernels_of, left_out, prove

    def forward() -> object:
        return arm.module(tokens)

    device = tokens.device.type
    told_by = calibrated_matcher(arm.model, tokens.numel(), device)
    proof = prove(kernels_of(arm.model, forward, device), told_by)
    swept.proofs[arm.mode] = proof
    swept.left[arm.mode] = left_out(arm.model, proof, arm.left)
    swept.census[arm.mode] = census(arm.model, forward)


def _energy(device: str) -> Energy:
    try:
        return Energy(*counters_of(device))
    except EnergyError as error:
        return Energy(missing=str(error))


def _fallback(swept: _Swept, compiled: "Compiled | None") -> str | None:
    """Why something else ran than was asked for."""
    said = [
        f"{mode}: only {proof.share:.0%} of the products' time was in FP8 kernels"
        for mode, proof in swept.proofs.items()
        if proof.share < _MOSTLY
    ]
    if compiled is not None and compiled.fallback_reason:
        said.append(compiled.fallback_reason)
    return "; ".join(said) or None


def _effective(
    swept: _Swept, found: Tally, compiled: "Compiled", work: Work, scales: "Scales | None"
) -> dict[str, Any]:
    from runner.probes.precision.arms import library_versions

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


PROBE = Probe("precision_power_sweep", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
