"""The work of `precision_power_sweep`: the models of each mode, their windows, and the findings from them."""

import argparse
import math
from functools import partial
from typing import Any

from runner.base.errors import InputError
from runner.entry.model import Scalar
from runner.kit.budget import Budget, budget
from runner.kit.precision.building import Asked, SweptModes, build_modes
from runner.kit.precision.choice import Prefill, choose_work, sample_tokens, scales_from
from runner.kit.precision.compiled import EAGER, Compiled
from runner.kit.precision.counters import EnergyError, counters_of
from runner.kit.precision.measuring import Energy, Tally, Timed, Windows, timed
from runner.kit.precision.reporting import cost, of_modes
from runner.kit.precision.scales import Scales
from runner.kit.probe import Findings, NotApplicableError, say, single

_LONGEST_WINDOW_S = 600
_WINDOWS_ON_CPU_S = 12.0


def sweep_power(arguments: argparse.Namespace) -> Findings:
    """Measure speed, energy and accuracy of the same work in each requested mode.

    Raises:
        InputError: an invalid number, an unknown model, or scales that are not this model's.
        NotApplicableError: no mode can run on this host, or the model does not fit.
        RunbookError: torch cannot use the GPUs of this host.
    """
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
