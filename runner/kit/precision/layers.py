"""What was found of a model's FP8 layers, as measurements, symptoms and details."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from runner.base.units import format_value
from runner.entry.model import Scalar
from runner.kit.precision.choice import Prefill
from runner.kit.precision.examine import Quality, inaccurate
from runner.kit.precision.product import Fp8Product
from runner.kit.precision.proof import Proof
from runner.kit.precision.scales import Scales
from runner.kit.probe import say, single
from runner.record.model import Measurement

# Far below the about 28 dB of E4M3 with good scales, far above the result of a wrong scale.
FLOOR_DB = 20.0
_NAMED = 4


@dataclass(frozen=True)
class Examined:
    """The findings.

    Attributes:
        product: implementation of the FP8 GEMM.
        proof: which kernels ran.
        quality: by FP8 layer.
        before: the same with the scales from before recalibration; None without recalibration.
        left: layers that did not run in FP8, with the reason.
        unproved: layers of which that is unknown.
        scales: static scales in use; None for dynamic scales.
        batches: number of calibration batches; None without calibration.
        census: number of layers of each kind.
    """

    product: Fp8Product
    proof: Proof
    quality: Mapping[str, Quality]
    before: Mapping[str, Quality] | None
    left: Mapping[str, str]
    unproved: Sequence[str]
    scales: Scales | None
    batches: int | None
    census: Mapping[str, int]


def wrong(found: Examined) -> dict[str, Quality]:
    """The layers below `FLOOR_DB`."""
    return inaccurate(found.quality, FLOOR_DB)


def symptom(found: Examined) -> str | None:
    """Layers outside FP8 and wrong scales, in one line; None if there are none."""
    said = []
    if found.left:
        total = len(found.left) + len(found.quality)
        said.append(f"{len(found.left)} of {total} layers are not in FP8: {_some(found.left)}")
    for name, one in list(wrong(found).items())[:_NAMED]:
        said.append(
            f"{name} has {one.signal_to_noise:.1f} dB ({one.saturated:.0%} of its inputs saturate,"
            f" {one.underflow:.0%} underflow): its scale is wrong"
        )
    return "; ".join(said) or None


def unknown(found: Examined) -> str | None:
    """What could not be proved, for the reason of a step that found no symptom."""
    if not found.unproved:
        return None
    why = found.proof.unknown or f"no GEMM recognised in {', '.join(found.unproved[:_NAMED])}"
    return f"layers in FP8 not measured: {why}"


def _some(left: Mapping[str, str]) -> str:
    named = [f"{name} ({why})" for name, why in list(left.items())[:_NAMED]]
    return ", ".join(named) + (f" and {len(left) - _NAMED} more" if len(left) > _NAMED else "")


def by_layer(found: Examined) -> dict[str, Any]:
    """Quality of each layer: `now`, or `before` and `after` a recalibration."""
    return {
        name: {"after" if found.before else "now": asdict(one)}
        | ({"before": asdict(found.before[name])} if found.before else {})
        for name, one in found.quality.items()
    }


def layer_measurements(found: Examined, work: Prefill) -> list[Measurement]:
    """The measurements; prints a line for each kind of finding."""
    labels: dict[str, Scalar] = {"model": work.name, "tokens": work.tokens}
    inside, product = sum(found.proof.by_layer.values()), found.product
    measurements = []
    # A count without the layers of which it is unknown would say that there are no others.
    if not found.unproved:
        measurements = [
            single("layers_in_fp8", inside, **labels, product=product.name),
            single("layers_not_in_fp8", len(found.left), **labels, product=product.name),
        ]
    if product.native and found.proof.share is not None:
        measurements.insert(0, single("fp8_share", found.proof.share, **labels))
        say(f"{inside} layers in FP8, {format_value(found.proof.share, '1')} of the GEMM time")
    elif not product.native:
        say(f"{inside} layers quantised to FP8; {product.described}")
    for made, count in found.census.items():
        say(f"  {count} × {made}")
    for which, of_layers in (("", found.quality), (", before", found.before)):
        if not of_layers:
            continue
        worst = min(of_layers, key=lambda name: of_layers[name].signal_to_noise)
        values = [one.signal_to_noise for one in of_layers.values()]
        measurements += [
            single("signal_to_noise", median(values), **labels, of=f"median layer{which}"),
            single("signal_to_noise", min(values), **labels, of=f"worst layer{which}"),
        ]
        say(
            f"signal-to-noise ratio{which}: median {median(values):.1f} dB, worst {min(values):.1f} dB in {worst}"
        )
    if found.quality:
        measurements += [
            single("saturated_share", max(one.saturated for one in found.quality.values()), **labels),
            single("underflow_share", max(one.underflow for one in found.quality.values()), **labels),
        ]
    return measurements
