"""Converts a sweep's samples to measurements: of each mode, relative to bf16, and cost."""

from collections.abc import Collection, Mapping
from statistics import median

from runner.base.units import format_value
from runner.entry.model import Scalar
from runner.kit.interleaved import paired_ratios
from runner.kit.precision.measuring import ModeSamples, Tally
from runner.kit.probe import measured, say, single
from runner.record.model import Measurement
from runner.sizing.models import ModelShape

BASELINE = "bf16"
_J_PER_KWH, _MILLION = 3.6e6, 1e6


def of_modes(
    found: Tally,
    accuracy: Mapping[str, float],
    fp8_share: Mapping[str, float],
    shape: ModelShape,
    labels: Mapping[str, Scalar],
    compiled: Collection[str] = (),
) -> list[Measurement]:
    """Every mode's measurements, and its ratios to bf16; prints one line per mode.

    Args:
        found: samples of each timed mode.
        accuracy: signal-to-noise ratio of each mode, dB, including modes that were not timed.
        fp8_share: FP8 share of the timed modes that have one.
        shape: the model, which defines the operations per token.
        labels: labels of the work.
        compiled: modes that did not run in eager. In eager, quantising takes passes over memory of its own, so the
            energy of FP8 is not that of FP8 as it is served; `energy_ratio` has a label for it.
    """
    measurements: list[Measurement] = []
    operations = 2 * shape.layers * shape.block_parameters
    for mode, decibel in accuracy.items():
        own = {**labels, "mode": mode}
        of_mode = [single("signal_to_noise", decibel, **own)]
        taken = found.taken.get(mode)
        if taken is not None:
            of_mode[:0] = [
                measured("prefill_tokens_per_second", taken.rate, **own),
                measured("flop_rate", [operations * rate for rate in taken.rate], **own),
            ]
            if mode in fp8_share:
                of_mode.append(single("fp8_share", fp8_share[mode], **own))
            of_mode += [
                measured(name, samples, **own) for name, samples in _optional(taken).items() if samples
            ]
        shown = [f"{one.name.replace('_', ' ')} {format_value(one.value, one.unit)}" for one in of_mode]
        say(f"{mode}: {', '.join(shown)}")
        measurements += of_mode
    base = found.taken.get(BASELINE)
    if base is None:
        return measurements
    for mode, taken in found.taken.items():
        if mode == BASELINE:
            continue
        more: dict[str, dict[str, Scalar]] = {"energy_ratio": {"compiled": {mode, BASELINE} <= set(compiled)}}
        pairs = {"speed_ratio": (taken.rate, base.rate), "energy_ratio": (taken.per_joule, base.per_joule)}
        for name, (ours, theirs) in pairs.items():
            if ours:
                own = {**labels, **more.get(name, {}), "mode": mode}
                measurements.append(measured(name, paired_ratios(ours, theirs), **own))
    return measurements


def _optional(taken: ModeSamples) -> dict[str, list[float]]:
    return {
        "tokens_per_joule": taken.per_joule,
        "joules_per_token": [1 / one for one in taken.per_joule],
        "tokens_per_joule_above_idle": taken.above_idle,
        "joules_per_token_above_idle": [1 / one for one in taken.above_idle],
        "power": taken.watts,
        "sm_clock": taken.clock_hz,
        "temperature": taken.temperature_c,
        "throttled_share": taken.throttled,
    }


def cost(found: Tally, price: float, pue: float, labels: Mapping[str, Scalar]) -> list[Measurement]:
    """Cost of the energy of a million tokens, idle power included: J/token × 10⁶ ÷ 3.6 × 10⁶ × PUE × price.

    Args:
        found: samples of each mode.
        price: price of a kWh, in the caller's currency.
        pue: power usage effectiveness: total power of the site ÷ power of its computers.
        labels: labels of the work.
    """
    stated = {"price_per_kwh": price, "pue": pue}
    costs = []
    for mode, taken in found.taken.items():
        if taken.per_joule:
            kwh = _MILLION / median(taken.per_joule) / _J_PER_KWH
            costs.append(single("energy_cost", kwh * pue * price, **labels, **stated, mode=mode))
            said = f"{kwh * pue * price:.3g} at {price:g} per kWh and PUE {pue:g}"
            say(f"{mode}: energy cost of a million tokens: {said}")
    return costs
