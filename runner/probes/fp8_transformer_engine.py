"""Does every layer that should run in FP8 run in FP8, and are its scales any good?

The physics: E4M3 has 3 bits of mantissa, which bounds the signal-to-noise ratio of a well-scaled tensor at about 31 dB
and of a product of two at about 28 dB. A scale that is too small saturates large inputs, one that is too large turns
small ones into zero; both cost accuracy, and neither changes which type the product runs in. A layer outside the layer
list stays in BF16 and costs speed, silently. So the two faults are looked for apart: what torch dispatched, layer by
layer, and how each layer's FP8 output compares with fp32 on the same input.

    python -m runner.probes.fp8_transformer_engine
    python -m runner.probes.fp8_transformer_engine --recalibrate --output-json artifacts/fp8/recalibration.json
    python -m runner.probes.fp8_transformer_engine --scales artifacts/fp8/recalibration.json

The layers are this project's own (`torch._scaled_mm`, weights and activations in E4M3). Scales are dynamic unless
`--recalibrate` finds static ones or `--scales` brings them. Only static and delayed scaling have anything to
recalibrate: dynamic, blockwise and MXFP8 scaling take theirs from the tensor at hand.
Exit status: 0 all in FP8 and accurate, 1 a layer is not, 2 bad input, 3 could not measure, 80 not applicable here.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from runner.entry.model import Scalar
from runner.errors import InputError
from runner.evidence.record import Measurement
from runner.probes.contract import Findings, NotApplicableError, Probe, base_parser, run_probe, say, single
from runner.probes.precision.choice import Work, add_work_arguments, choose_work, sample_tokens, scales_from
from runner.probes.precision.examine import (
    FP8_PRODUCT,
    Product,
    Quality,
    calibrate,
    fp8_share,
    products,
    quality,
)
from runner.probes.precision.scales import RECIPE, Scales, digest_of
from runner.units import format_value

FAULTS = ("corrupted-scales", "bf16-layers")
# Far below what E4M3 gives with good scales (about 28 dB), far above what a wrong one leaves.
FLOOR_DB = 20.0
# What --inject corrupted-scales does to one scale: as if calibrated on inputs 64 times smaller.
_CORRUPTION = 1 / 64
_CALIBRATION_SEED, _TEST_SEED = 1000, 0
_NAMED = 4


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_work_arguments(parser)
    parser.add_argument(
        "--recalibrate",
        action="store_true",
        help="find static scales; the document then holds them for --scales",
    )
    parser.add_argument(
        "--calibration-batches", type=int, default=4, metavar="N", help="batches to calibrate on (default 4)"
    )
    parser.add_argument(
        "--inject", choices=FAULTS, help="put a fault in, and say so; the probe has to find it"
    )
    return parser


@dataclass(frozen=True)
class _Examined:
    """What was found: products by layer, quality by FP8 layer, and layers that did not run in FP8 with the reason."""

    products: Mapping[str, Product]
    quality: Mapping[str, Quality]
    left: Mapping[str, str]


def _run(arguments: argparse.Namespace) -> Findings:
    if arguments.recalibrate and arguments.scales:
        raise InputError("--recalibrate and --scales contradict each other; give one")
    if arguments.calibration_batches < 1:
        raise InputError("--calibration-batches must be 1 or more")
    work = choose_work(arguments, modes=("bf16", "fp8"))
    scales = scales_from(arguments, work.shape)
    found, scales = _examine(arguments, work, scales)
    reason = _symptom(found)
    return Findings(
        measurements=_report(found, work),
        status="symptom" if reason else "ok",
        reason=reason,
        requested={"model": arguments.model, "scales": "static" if scales else "dynamic"},
        effective={"model": work.name, "device": work.device, "scales": RECIPE if scales else "dynamic"},
        details={
            "injected": arguments.inject,
            "layers_not_in_fp8": dict(found.left),
            "below_floor": {name: one.signal_to_noise for name, one in _inaccurate(found).items()},
            "scales": scales.to_json() if scales and arguments.recalibrate else None,
        },
    )


def _examine(
    arguments: argparse.Namespace, work: Work, scales: Scales | None
) -> tuple[_Examined, Scales | None]:
    import torch

    from runner.probes.precision.arms import unavailable
    from runner.probes.precision.linear import block_linears, convert
    from runner.probes.transformer import build_model

    why_not = unavailable("fp8", work.device)
    if why_not:
        raise NotApplicableError(why_not)
    source = build_model(work.shape, torch.bfloat16, work.device)
    names = [name for name, _ in block_linears(source)]
    say(f"{work.name} on the {work.device}: {len(names)} linear layers in {work.shape.layers} blocks")
    if arguments.recalibrate or (arguments.inject == "corrupted-scales" and scales is None):
        batches = [sample_tokens(work, _CALIBRATION_SEED + n) for n in range(arguments.calibration_batches)]
        scales = Scales(work.shape.name, digest_of(work.shape), calibrate(source, batches))
    static = dict(scales.inputs) if scales else None
    leave_out: list[str] = []
    middle = names[len(names) // 2]
    if arguments.inject == "corrupted-scales" and static is not None:
        static[middle] *= _CORRUPTION
        say(f"injected: the input scale of {middle} is {1 / _CORRUPTION:.0f} times too small")
    elif arguments.inject == "bf16-layers":
        block = middle.split(".")[1]
        leave_out = [name for name in names if name.startswith(f"layers.{block}.")]
        say(f"injected: block {block} is not on the list of FP8 layers")
    fp8 = build_model(work.shape, torch.bfloat16, work.device)
    reasons = convert(fp8, static, leave_out)
    tokens = sample_tokens(work, _TEST_SEED)
    seen = products(fp8, tokens)
    left = {
        name: f"{seen[name].dtype}: {reasons.get(name, 'no reason known')}"
        for name in names
        if seen[name].operator != FP8_PRODUCT
    }
    return _Examined(seen, quality(source, fp8, tokens), left), scales


def _inaccurate(found: _Examined) -> dict[str, Quality]:
    return {name: one for name, one in found.quality.items() if one.signal_to_noise < FLOOR_DB}


def _symptom(found: _Examined) -> str | None:
    said = []
    if found.left:
        total = len(found.left) + len(found.quality)
        said.append(f"{len(found.left)} of {total} layers are not in FP8: {_some(found.left)}")
    for name, one in list(_inaccurate(found).items())[:_NAMED]:
        said.append(
            f"{name} has {one.signal_to_noise:.1f} dB ({one.saturated:.0%} of its inputs saturate,"
            f" {one.underflow:.0%} vanish): its scale is wrong"
        )
    return "; ".join(said) or None


def _some(left: Mapping[str, str]) -> str:
    named = [f"{name} ({why})" for name, why in list(left.items())[:_NAMED]]
    return ", ".join(named) + (f" and {len(left) - _NAMED} more" if len(left) > _NAMED else "")


def _report(found: _Examined, work: Work) -> list[Measurement]:
    labels: dict[str, Scalar] = {"model": work.name, "tokens": work.tokens}
    measurements = [
        single("fp8_share", fp8_share(found.products), **labels),
        single("layers_in_fp8", len(found.quality), **labels),
        single("layers_not_in_fp8", len(found.left), **labels),
    ]
    say(
        f"{len(found.quality)} layers in FP8, {format_value(measurements[0].value, '1')} of the products' time"
    )
    if found.quality:
        worst = min(found.quality, key=lambda name: found.quality[name].signal_to_noise)
        values = [one.signal_to_noise for one in found.quality.values()]
        measurements += [
            single("signal_to_noise", median(values), **labels, of="median layer"),
            single("signal_to_noise", min(values), **labels, of="worst layer"),
            single("saturated_share", max(one.saturated for one in found.quality.values()), **labels),
            single("underflow_share", max(one.underflow for one in found.quality.values()), **labels),
        ]
        say(f"signal to noise: median {median(values):.1f} dB, worst {min(values):.1f} dB in {worst}")
    return measurements


PROBE = Probe("fp8_transformer_engine", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
