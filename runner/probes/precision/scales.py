"""Scales of a model's inputs, found by calibration: bound to the model, refused by name when wrong."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.models import ModelShape

FORMAT = 1
RECIPE = "static, per tensor, largest magnitude seen"
_AGAIN = "make new ones with --recalibrate --output-json FILE"


@dataclass(frozen=True)
class Scales:
    """Input scale of every FP8 layer by name, and the model they belong to."""

    model: str
    model_digest: str
    inputs: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """What `read_scales` reads, also from within a probe's document (`details.scales`)."""
        about = {"format": FORMAT, "recipe": RECIPE, "model": self.model, "model_digest": self.model_digest}
        return {**about, "inputs": dict(self.inputs)}


def digest_of(shape: ModelShape) -> str:
    """A digest of the configuration: scales of one model mean nothing for another. The name does not count."""
    fields = {key: value for key, value in asdict(shape).items() if key != "name"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def read_scales(path: Path, shape: ModelShape, layers: tuple[str, ...]) -> Scales:
    """Read a file that `fp8_transformer_engine --recalibrate --output-json` wrote.

    Args:
        path: the file.
        shape: the model that is to use it.
        layers: names of that model's FP8 layers.

    Raises:
        InputError: no such file, no scales in it, of another model, or a scale that is missing, unknown, NaN, infinite,
            zero or negative; the message names the layer.
    """
    found = _scales_within(path)
    if found.get("format") != FORMAT:
        raise InputError(f"{path}: scales of format {found.get('format')!r}, this reads {FORMAT}; {_AGAIN}")
    if found.get("model_digest") != digest_of(shape):
        raise InputError(
            f"{path}: calibrated for {found.get('model')!r} of another configuration than {shape.name!r}; {_AGAIN}"
        )
    inputs = found.get("inputs")
    if not isinstance(inputs, dict):
        raise InputError(f"{path}: has no input scales; {_AGAIN}")
    for name in layers:
        if name not in inputs:
            raise InputError(f"{path}: no scale for {name}; {_AGAIN}")
    for name, value in inputs.items():
        if name not in layers:
            raise InputError(f"{path}: a scale for {name}, which {shape.name} does not have; {_AGAIN}")
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value <= 0
        ):
            raise InputError(f"{path}: the scale of {name} is {value}, not a number above zero; {_AGAIN}")
    return Scales(shape.name, digest_of(shape), inputs)


def _scales_within(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the scales {path}: {error.strerror}; {_AGAIN}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {_AGAIN}") from error
    if isinstance(content, dict) and isinstance(content.get("details"), dict):
        content = content["details"].get("scales")
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no scales; {_AGAIN}")
    return content
