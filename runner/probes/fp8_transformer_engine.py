"""Check that every layer that should run in FP8 does, and that its scales are accurate.

Physics. E4M3 has 3 mantissa bits, which limits the signal-to-noise ratio of a well-scaled tensor to about 31 dB and of
a GEMM of two to about 28 dB. A scale that is too small saturates large inputs; one that is too large rounds small
inputs to zero. Both cost accuracy, and neither changes the type that the GEMM runs in. A layer that is not on the layer
list stays in BF16 and costs speed, silently. So the two faults are checked separately: which kernels ran in each layer,
and how each layer's FP8 output compares with fp32 on the same input.

    python -m runner.probes.fp8_transformer_engine
    python -m runner.probes.fp8_transformer_engine --recalibrate --output-json artifacts/fp8/recalibration.json
    python -m runner.probes.fp8_transformer_engine --recalibrate --recipe percentile --percentile 99.9
    python -m runner.probes.fp8_transformer_engine --scales artifacts/fp8/recalibration.json

The layers are this project's own (`torch._scaled_mm`, weights and activations in E4M3). If `_scaled_mm` fails or is far
too slow on this CPU, the same values are multiplied in fp32: `effective.product` and the label `product` name the
implementation, layers are then counted as quantised, and fp8_share, which is about FP8 kernels, is left out. Scales are
dynamic unless `--recalibrate` computes static ones or `--scales` loads them; with both, the old ones are "before", the
new ones "after". Only static and delayed scaling can be recalibrated: current (dynamic), blockwise and MXFP8 scaling
compute scales from the current tensor, and `--recalibrate --recipe mxfp8` reports that and does nothing. Calibration
uses 4 batches, on a CPU fewer to fit about 10 s; see `effective.calibration_batches`.
Exit status: 0 all layers in FP8 and accurate, 1 a layer is not, 2 bad input, 3 measurement failed, 80 not applicable.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.base.errors import InputError
from runner.kit.budget import budget
from runner.kit.options import add_choices, add_counts, add_flags, add_numbers
from runner.kit.precision.choice import Prefill, add_work_arguments, choose_work, sample_tokens, scales_from
from runner.kit.precision.examine import magnitudes, quality
from runner.kit.precision.layers import Examined, by_layer, layer_measurements, symptom, unknown, wrong
from runner.kit.precision.linear import E4M3_MAX
from runner.kit.precision.metrics import LAYERS
from runner.kit.precision.product import fp8_product
from runner.kit.precision.proof import census, layers_left_out, proof_of, unproved_layers
from runner.kit.precision.scales import NOTHING_TO_RECALIBRATE, RECIPES, Scales, digest_of, scale_by
from runner.kit.probe import Findings, NotApplicableError, Probe, base_parser, say

FAULTS = ("corrupted-scales", "bf16-layers")
# Factor of --inject corrupted-scales: one scale, as if calibrated on inputs 64 times smaller.
_CORRUPTION = 1 / 64
_CALIBRATION_SEED, _TEST_SEED = 1000, 0
_CALIBRATION_BATCHES, _CALIBRATION_ON_CPU_S = 4, 10.0


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_work_arguments(parser)
    add_flags(parser, {"--recalibrate": "calibrate static scales; the document then holds them for --scales"})
    recipes = (*RECIPES, *NOTHING_TO_RECALIBRATE)
    how = "how to compute a scale from the history of magnitudes (default max)"
    add_choices(parser, {"--recipe": (recipes, "max", how)})
    percentile = "percentile of a batch's magnitudes, for --recipe percentile"
    add_numbers(parser, "P", {"--percentile": (99.99, percentile)})
    batches = "calibration batches: the length of the history (default 4; on a CPU fewer if time is short)"
    add_counts(parser, {"--calibration-batches": batches})
    parser.add_argument("--inject", choices=FAULTS, help="inject a fault that the probe must find")
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
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


PROBE = Probe(
    "fp8_transformer_engine",
    method_version=3,
    summary="Which layers ran in FP8, and how accurate their scales are",
    metrics=LAYERS,
    labels=("model", "tokens", "product", "of"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
