"""The work of `fp8_transformer_engine`: calibrates, injects faults, examines every layer, and reports."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.base.errors import InputError
from runner.kit.budget import budget
from runner.kit.precision.choice import Prefill, choose_work, sample_tokens, scales_from
from runner.kit.precision.examine import magnitudes, quality
from runner.kit.precision.layers import Examined, by_layer, layer_measurements, symptom, unknown, wrong
from runner.kit.precision.linear import E4M3_MAX
from runner.kit.precision.options import NOTHING_TO_RECALIBRATE, RECIPES
from runner.kit.precision.product import fp8_product
from runner.kit.precision.proof import census, layers_left_out, proof_of, unproved_layers
from runner.kit.precision.scales import Scales, digest_of, scale_by
from runner.kit.probe import Findings, NotApplicableError, say

# Factor of --inject corrupted-scales: one scale, as if calibrated on inputs 64 times smaller.
_CORRUPTION = 1 / 64
_CALIBRATION_SEED, _TEST_SEED = 1000, 0
_CALIBRATION_BATCHES, _CALIBRATION_ON_CPU_S = 4, 10.0


def check_layers(arguments: argparse.Namespace) -> Findings:
    """Check that every layer ran in FP8 and that its scales are accurate; calibrate scales if requested.

    Raises:
        InputError: an invalid number, an unknown model, or scales that are not this model's or are stale.
        NotApplicableError: FP8 cannot run here, there is nothing to recalibrate, or the model does not fit.
        RunbookError: torch cannot use the GPUs of this host, or FP8 kernels cannot be told from others.
    """
    _check(arguments)
    work = choose_work(arguments, modes=("bf16", "fp8"))
    found = _examine(arguments, work, scales_from(arguments, work.shape))
    reason = symptom(found)
    scales = found.scales
    return Findings(
        measurements=layer_measurements(found, work),
        status="symptom" if reason else "ok",
        reason=reason or unknown(found),
        requested={"model": arguments.model, "scales": "static" if scales else "dynamic"},
        effective={
            "model": work.name,
            "device": work.device,
            "scales": f"static, {scales.recipe}: {RECIPES[scales.recipe]}" if scales else "dynamic",
            "product": found.product.described,
            "calibration_batches": found.batches,
        },
        details={
            "injected": arguments.inject,
            "layers_not_in_fp8": dict(found.left),
            "layers_unproved": list(found.unproved),
            "below_floor": {name: one.signal_to_noise for name, one in wrong(found).items()},
            "census": dict(found.census),
            "kernels": dict(found.proof.by_kernel),
            "kernels_matched_by": found.proof.rule,
            "layers": by_layer(found),
            "nothing_to_recalibrate": dict(NOTHING_TO_RECALIBRATE),
            "scales": scales.to_json() if scales and arguments.recalibrate else None,
        },
    )


def _check(arguments: argparse.Namespace) -> None:
    if arguments.calibration_batches is not None and arguments.calibration_batches < 1:
        raise InputError("--calibration-batches must be 1 or more")
    if not 0 < arguments.percentile <= 100:  # noqa: PLR2004 - a percentile
        raise InputError("--percentile must be above 0 and at most 100")
    if arguments.recipe in NOTHING_TO_RECALIBRATE:
        if not arguments.recalibrate:
            raise InputError(f"--recipe {arguments.recipe} needs --recalibrate")
        raise NotApplicableError(
            f"nothing to recalibrate: {NOTHING_TO_RECALIBRATE[arguments.recipe]}; look for layers outside FP8 instead"
        )


def _examine(arguments: argparse.Namespace, work: Prefill, scales: Scales | None) -> Examined:
    import torch

    from runner.kit.precision.arms import unavailable
    from runner.kit.precision.linear import block_linears, convert, set_input_scales, weight_scales
    from runner.kit.transformer import build_model

    why_not = unavailable("fp8", work.device, static=True)
    if why_not:
        raise NotApplicableError(why_not)
    source = build_model(work.shape, torch.bfloat16, work.device)
    names = [name for name, _ in block_linears(source)]
    say(f"{work.name} on the {work.device}: {len(names)} linear layers in {work.shape.layers} blocks")
    weights = weight_scales(source)
    if scales is not None:
        scales.check_weights(weights)
    middle = names[len(names) // 2]
    corrupt = arguments.inject == "corrupted-scales"
    new, batches = None, None
    if arguments.recalibrate or corrupt:
        new, batches = _calibrated(arguments, work, source, weights)
    in_force = new if corrupt and scales is None else scales
    if corrupt and in_force is not None:
        inputs = {**in_force.inputs, middle: in_force.inputs[middle] * _CORRUPTION}
        in_force = replace(in_force, inputs=inputs)
        say(f"injected: the input scale of {middle} is {1 / _CORRUPTION:.0f} times too small")
    leave_out: list[str] = []
    if arguments.inject == "bf16-layers":
        block = middle.split(".")[1]
        leave_out = [name for name in names if name.startswith(f"layers.{block}.")]
        say(f"injected: block {block} is not on the list of FP8 layers")
    fp8 = build_model(work.shape, torch.bfloat16, work.device)
    reasons = convert(fp8, in_force.inputs if in_force else None, leave_out)
    tokens = sample_tokens(work, _TEST_SEED)
    before = None
    if arguments.recalibrate and new is not None:
        before = quality(source, fp8, tokens)
        in_force = new
        set_input_scales(fp8, new.inputs)

    def forward() -> object:
        return fp8.model(tokens, use_cache=False)

    proof = proof_of(fp8, forward, tokens.numel(), work.device)
    left = layers_left_out(fp8, proof, reasons)
    return Examined(
        fp8_product(work.device),
        proof,
        quality(source, fp8, tokens),
        before,
        left,
        unproved_layers(fp8, proof, left),
        in_force,
        batches,
        census(fp8, forward),
    )


def _calibrated(
    arguments: argparse.Namespace, work: Prefill, source: Any, weights: Mapping[str, float]
) -> tuple[Scales, int]:
    """Static scales, and the number of batches they were calibrated on."""
    asked = arguments.calibration_batches
    batches = [sample_tokens(work, _CALIBRATION_SEED + n) for n in range(asked or _CALIBRATION_BATCHES)]
    percentile = arguments.percentile if arguments.recipe == "percentile" else None
    # A number given on the command line, or a GPU's default, is reduced only to fit the step's own time.
    short = work.device == "cpu" and asked is None
    history = magnitudes(source, batches, percentile, budget(_CALIBRATION_ON_CPU_S if short else math.inf))
    taken = len(next(iter(history.values())))
    if taken < len(batches):
        say(f"calibrated on {taken} of {len(batches)} batches: time limit")
    scales = Scales(
        work.shape.name,
        digest_of(work.shape),
        arguments.recipe,
        {name: scale_by(arguments.recipe, seen, E4M3_MAX) for name, seen in history.items()},
        weights,
    )
    return scales, taken
