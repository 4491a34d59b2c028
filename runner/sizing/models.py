"""The models that probes run: decoder-only transformers, defined by their shape alone. No torch, no hub.

A preset is a transformers `config.json` that ships with the package; a local model folder is read by the same code.
A model built from a shape has random weights: speed and memory depend on the shape, not on trained values.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed
from runner.sizing.presets import PRESETS

# Families that share Llama's block: RMSNorm, rotary positions, separate q/k/v without bias, two or three MLP matrices.
FAMILIES = ("llama", "mistral")
# The index file of a model with a trillion parameters has a few megabytes.
_MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class ModelShape:
    """Shape of a decoder-only transformer.

    Attributes:
        layers: transformer blocks.
        hidden: width of the residual stream.
        heads, kv_heads: query heads and key/value heads (fewer than `heads` is grouped-query attention).
        head_dim: width of a head; heads × head_dim need not equal `hidden`.
        ff: inner width of the MLP.
        vocab: tokens in the vocabulary.
        max_positions: longest sequence in tokens.
        gated_mlp: three MLP matrices (gate, up, down) as in Llama; two (up, down) as in GPT when false.
        tied_embeddings: the output matrix is the embedding matrix.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    vocab: int
    max_positions: int
    gated_mlp: bool = True
    tied_embeddings: bool = False

    def cached_values(self, tokens: int, batch: int, kv_heads: int | None = None) -> int:
        """Values in a KV cache: 2 × layers × kv_heads × head_dim × tokens × batch; by default of all its heads."""
        heads = self.kv_heads if kv_heads is None else kv_heads
        return 2 * self.layers * heads * self.head_dim * tokens * batch

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: q, k, v, o, the MLP and two RMSNorm scales."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        mlp = (3 if self.gated_mlp else 2) * self.hidden * self.ff
        return attention + mlp + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """Parameters in all: blocks, embedding, output matrix unless tied, final norm."""
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * self.block_parameters + embeddings + self.hidden


def model_shape(name_or_folder: str) -> ModelShape:
    """The shape of a preset (`tiny`, `8b`, `40b`, `70b`), of a transformers `config.json` or of a folder with one.

    Raises:
        InputError: neither a preset nor a folder, or an invalid configuration.
    """
    if name_or_folder in PRESETS:
        text = (resources.files(__package__) / "presets_data" / f"{name_or_folder}.json").read_text(
            encoding="utf-8"
        )
        return parse_shape(name_or_folder, _json(text, f"preset {name_or_folder}"))
    path = Path(name_or_folder)
    if path.suffix != ".json":
        if not path.is_dir():
            raise InputError(f"no model {name_or_folder!r}: use {', '.join(PRESETS)} or a local model folder")
        path /= "config.json"
    return parse_shape(name_or_folder, _json(_text(path), str(path)))


def fitting_model(
    model: str | None, preset: str, fits: Callable[[ModelShape], bool]
) -> tuple[ModelShape, bool]:
    """The named model, or the largest preset up to `preset` that fits; with whether it fits.

    If none fits, it is the smallest one tried, for the message.

    Raises:
        InputError: as `model_shape` does.
    """
    names = [model] if model else PRESETS[: PRESETS.index(preset) + 1][::-1]
    for shape in map(model_shape, names):
        if fits(shape):
            return shape, True
    return shape, False


def weights_folder(model: str) -> Path | None:
    """The folder with a model's own weights; None for a preset or a `config.json`, whose weights are random."""
    return None if model in PRESETS or model.endswith(".json") else Path(model)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder; all of them exist.

    Raises:
        InputError: the folder has none, or its index lists a missing file; if weights do not matter, the folder's
            config.json can be given instead.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _json(_text(index), str(index)).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder}: {missing[0]} is listed in {index.name} but missing; copy it again")
        files = tuple(folder / name for name in names)
    else:
        files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise InputError(
            f"{folder} has no weights (*.safetensors); copy them there, or pass {folder / 'config.json'} to run"
            " its shape with random weights"
        )
    return files


def parse_shape(name: str, config: Mapping[str, object]) -> ModelShape:
    """Read a transformers configuration as a shape.

    Args:
        name: preset or folder, for messages and labels.
        config: the parsed `config.json`.

    Raises:
        InputError: an unsupported model family, a field that is missing or not a positive whole number, or head counts
            that do not divide.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise InputError(f"{name}: model_type {family!r} is not supported; use one of {', '.join(FAMILIES)}")
    hidden, heads = _count(name, config, "hidden_size"), _count(name, config, "num_attention_heads")
    kv_heads = _count(name, config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise InputError(f"{name}: {heads} attention heads are not a multiple of {kv_heads} key/value heads")
    if config.get("head_dim") is None and hidden % heads:
        raise InputError(
            f"{name}: hidden_size {hidden} is not a multiple of {heads} attention heads, and head_dim is not given"
        )
    head_dim = _count(name, config, "head_dim", hidden // heads)
    if head_dim % 2:
        raise InputError(f"{name}: head_dim {head_dim} is odd; rotary positions need an even one")
    return ModelShape(
        name=name,
        layers=_count(name, config, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ff=_count(name, config, "intermediate_size"),
        vocab=_count(name, config, "vocab_size"),
        max_positions=_count(name, config, "max_position_embeddings"),
        gated_mlp=config.get("mlp_gated", True) is not False,
        tied_embeddings=config.get("tie_word_embeddings") is True,
    )


def _text(path: Path) -> str:
    try:
        return read_placed(path, _MOST_BYTES).decode("utf-8")
    except (PlacedFileError, UnicodeDecodeError) as error:
        reason = error.why if isinstance(error, PlacedFileError) else "not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}; a model folder holds a config.json") from error


def _json(text: str, where: str) -> Mapping[str, object]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON (line {error.lineno}: {error.msg})") from error
    except (RecursionError, ValueError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{where}: not a model configuration ({said})") from error
    if not isinstance(config, dict):
        raise InputError(f"{where}: not a JSON object; pass a transformers config.json")
    return config


def _count(name: str, config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name}: {key} is {value!r}; it must be a whole number above zero")
    return value
