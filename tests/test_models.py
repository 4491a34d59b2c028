import json
from pathlib import Path

import pytest

from runner.base.errors import InputError
from runner.sizing.models import fitting_model, model_shape, parse_shape, weights_folder
from runner.sizing.presets import PRESETS

LLAMA: dict[str, object] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    ("preset", "billions"), [("tiny", 0.017), ("8b", 8.03), ("40b", 39.48), ("70b", 70.55)]
)
def test_presets_have_the_published_parameter_counts(preset: str, billions: float) -> None:
    assert model_shape(preset).parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_every_preset_ships_with_a_model() -> None:
    assert [model_shape(preset).name for preset in PRESETS] == list(PRESETS)


def test_a_local_folder_is_read_like_a_preset(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    shape = model_shape(str(tmp_path))
    assert (shape.layers, shape.head_dim, shape.kv_heads, shape.gated_mlp) == (2, 16, 2, True)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="no model '13b': use tiny, 8b, 40b, 70b"):
        model_shape("13b")


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*config\.json: no such file"):
        model_shape(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "4 attention heads are not a multiple of 3"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple of 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"intermediate_size": None}, "intermediate_size is None"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_shape("test", LLAMA | change)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="JSON"):
        model_shape(str(tmp_path))


@pytest.mark.parametrize("text", ['{"a": ' * 100_000, '{"hidden_size": ' + "9" * 5000 + "}"])
def test_a_configuration_that_breaks_the_reader_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="not a model configuration"):
        model_shape(str(tmp_path))


@pytest.mark.parametrize(
    ("model", "most", "chosen"),
    [
        (None, 1e12, ("40b", True)),
        (None, 10e9, ("8b", True)),
        (None, 1.0, ("tiny", False)),
        ("70b", 1e12, ("70b", True)),
        ("8b", 1.0, ("8b", False)),
    ],
)
def test_the_largest_preset_that_fits_is_chosen_and_a_named_model_is_kept(
    model: str | None, most: float, chosen: tuple[str, bool]
) -> None:
    shape, fits = fitting_model(model, "40b", lambda shape: shape.parameters <= most)
    assert (shape.name, fits) == chosen


def test_only_a_folder_has_weights_of_its_own() -> None:
    assert [weights_folder(name) for name in ("8b", "x/config.json")] == [None, None]
    assert weights_folder("x/model") == Path("x/model")
