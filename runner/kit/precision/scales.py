"""A file of static scales: versioned, and valid for one model's configuration and weights."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed
from runner.kit.precision.options import RECIPES
from runner.sizing.models import ModelShape

FORMAT = 2
_MOST_BYTES = 32 << 20
_AGAIN = "create new ones with --recalibrate --output-json FILE"
# Unchanged weights give the same scale; this tolerance is for rounding on another device.
_SAME_WEIGHTS = 1e-3


@dataclass(frozen=True)
class Scales:
    """Scales of every FP8 layer by name, and the model that they belong to.

    Attributes:
        model, model_digest: its name, and a digest of its configuration.
        recipe: one of `RECIPES`.
        inputs: scale of each layer's input.
        weights: scale of each layer's weight at calibration, to detect changed weights.
        source: the file, for messages.
    """

    model: str
    model_digest: str
    recipe: str
    inputs: Mapping[str, float]
    weights: Mapping[str, float]
    source: str = "these scales"

    def to_json(self) -> dict[str, Any]:
        """The JSON that `read_scales` reads, also inside a probe's document (`details.scales`)."""
        kept = asdict(self)
        del kept["source"]
        return {"format": FORMAT} | kept

    def check_weights(self, weights: Mapping[str, float]) -> None:
        """Compare the model's weights with those of the calibration.

        Raises:
            InputError: the scales are stale; the message names a layer.
        """
        for name, now in weights.items():
            then = self.weights[name]
            if not math.isclose(now, then, rel_tol=_SAME_WEIGHTS):
                raise InputError(
                    f"{self.source}: stale: the weights of {name} changed after calibration (scale {then:.4g} then,"
                    f" {now:.4g} now); {_AGAIN}"
                )


def scale_by(recipe: str, magnitudes: Sequence[float], largest: float) -> float:
    """The scale that maps a layer's magnitude to `largest`, the format's largest number.

    Args:
        recipe: one of `RECIPES`.
        magnitudes: history of the layer's input, one per batch: its largest magnitude, or a percentile of them.
        largest: 448 for E4M3.
    """
    magnitude = magnitudes[-1] if recipe == "most-recent" else max(magnitudes)
    return magnitude / largest


def digest_of(shape: ModelShape) -> str:
    """A digest of the configuration, without the name: scales are valid only for one configuration."""
    fields = {key: value for key, value in asdict(shape).items() if key != "name"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def read_scales(path: Path, shape: ModelShape, layers: tuple[str, ...]) -> Scales:
    """Read a file that `fp8_transformer_engine --recalibrate --output-json` wrote.

    Changed weights can be detected only after the model is built: see `Scales.check_weights`.

    Args:
        path: the file.
        shape: the model that will use it.
        layers: names of that model's FP8 layers.

    Raises:
        InputError: no such file, no scales in it, another format or model, an unknown recipe, or a scale that is
            missing, unknown, NaN, infinite, zero or negative; the message names the layer.
    """
    found = _scales_within(path)
    if found.get("format") != FORMAT:
        raise InputError(f"{path}: scales of format {found.get('format')!r}, expected {FORMAT}; {_AGAIN}")
    if found.get("model_digest") != digest_of(shape):
        raise InputError(
            f"{path}: calibrated for {found.get('model')!r}, whose configuration differs from {shape.name!r}; {_AGAIN}"
        )
    if found.get("recipe") not in RECIPES:
        raise InputError(f"{path}: unknown recipe {found.get('recipe')!r}; {_AGAIN}")
    kinds = {
        kind: _checked(found.get(f"{kind}s"), kind, path, shape.name, layers) for kind in ("input", "weight")
    }
    return Scales(
        shape.name, digest_of(shape), found["recipe"], kinds["input"], kinds["weight"], source=str(path)
    )


def _checked(
    values: object, kind: str, path: Path, model: str, layers: tuple[str, ...]
) -> Mapping[str, float]:
    if not isinstance(values, dict):
        raise InputError(f"{path}: no {kind} scales; {_AGAIN}")
    for name in layers:
        if name not in values:
            raise InputError(f"{path}: no {kind} scale for {name}; {_AGAIN}")
    for name, value in values.items():
        if name not in layers:
            raise InputError(f"{path}: {kind} scale for {name}, a layer that {model} does not have; {_AGAIN}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise InputError(
                f"{path}: the {kind} scale of {name} is {value}, not a number above zero; {_AGAIN}"
            )
    return values


def _scales_within(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_placed(path, _MOST_BYTES))
    except PlacedFileError as error:
        raise InputError(f"cannot read the scales {path}: {error.why}; {_AGAIN}") from error
    except RecursionError as error:
        raise InputError(f"{path}: not JSON (nested too deeply); {_AGAIN}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {_AGAIN}") from error
    if isinstance(content, dict) and isinstance(content.get("details"), dict):
        content = content["details"].get("scales")
    if not isinstance(content, dict):
        raise InputError(f"{path}: no scales in this file; {_AGAIN}")
    return content
