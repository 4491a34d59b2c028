"""FP8 layers for real (`torch._scaled_mm` on the CPU), their scales, and the probe that examines them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.base.errors import InputError
from runner.kit import budget
from runner.kit.precision.choice import layer_names
from runner.kit.precision.linear import convert, e4m3_scale, quantise
from runner.kit.precision.options import NOTHING_TO_RECALIBRATE, RECIPES
from runner.kit.precision.scales import Scales, digest_of, read_scales, scale_by
from runner.kit.probe import NOT_APPLICABLE
from runner.kit.transformer import build_model
from runner.probes import precision_power_sweep
from runner.probes.fp8_transformer_engine import PROBE
from runner.sizing.models import model_shape

main = PROBE.main

pytest_plugins = ("tests.fp8_products",)

SMALL = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}


def folder_of(tmp_path: Path, **changed: int) -> str:
    folder = tmp_path / "small"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SMALL, **changed}), encoding="utf-8")
    return str(folder)


def probe(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["--tokens", "32", *arguments])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def read_back(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def value(document: dict[str, Any], name: str, **labels: object) -> float:
    [found] = [
        one["value"]
        for one in document["measurements"]
        if one["name"] == name and labels.items() <= one["labels"].items()
    ]
    return float(found)


@pytest.mark.usefixtures("fp8_of_torch")
def test_a_well_scaled_model_is_all_in_fp8_and_accurate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = probe(capsys, "--model", folder_of(tmp_path))
    assert (status, document["status"]) == (0, "ok")
    assert value(document, "layers_in_fp8") == 14
    assert value(document, "layers_not_in_fp8") == 0
    assert 20 < value(document, "signal_to_noise", of="worst layer") < 32
    assert value(document, "fp8_share") == 1
    assert document["details"]["census"] == {
        "Fp8Linear: weight float8_e4m3fn, bfloat16 → bfloat16": 14,
    }
    assert list(document["details"]["kernels"]) == ["_scaled_mm"]
    assert document["effective"]["model"] == "small"
    assert document["effective"]["scales"] == "dynamic"


def test_a_corrupted_scale_is_named_and_its_layer_stays_in_fp8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = probe(capsys, "--model", folder_of(tmp_path), "--inject", "corrupted-scales")
    assert (status, document["status"]) == (1, "symptom")
    assert list(document["details"]["below_floor"]) == ["layers.1.self_attn.q_proj"]
    assert "layers.1.self_attn.q_proj" in document["reason"]
    assert "saturate" in document["reason"]
    assert value(document, "layers_not_in_fp8") == 0
    assert value(document, "saturated_share") > 0.5


@pytest.mark.usefixtures("fp8_of_torch")
def test_layers_left_in_bf16_are_named_and_the_others_stay_accurate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = probe(capsys, "--model", folder_of(tmp_path), "--inject", "bf16-layers")
    assert status == 1
    left = document["details"]["layers_not_in_fp8"]
    assert len(left) == 7
    assert set(left.values()) == {"not in FP8: excluded by the layer list"}
    assert 0 < value(document, "fp8_share") < 1
    assert all(name.startswith("layers.1.") for name in left)
    assert value(document, "signal_to_noise", of="worst layer") > 20


def test_a_shape_that_fp8_cannot_take_is_named_with_its_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = probe(capsys, "--model", folder_of(tmp_path, intermediate_size=136))
    assert status == 1
    left = document["details"]["layers_not_in_fp8"]
    assert left["layers.0.mlp.up_proj"] == "not in FP8: its shape 136×64 is not a multiple of 16"
    assert len(left) == 6


def test_recalibrated_scales_are_used_by_the_same_model_and_refused_by_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = folder_of(tmp_path), tmp_path / "scales.json"
    status, _ = probe(capsys, "--model", model, "--recalibrate", "--output-json", str(file))
    assert status == 0
    status, document = probe(capsys, "--model", model, "--scales", str(file))
    assert status == 0
    assert document["effective"]["scales"].startswith("static")
    assert value(document, "signal_to_noise", of="worst layer") > 20
    noise = [one["after"]["signal_to_noise"] for one in read_back(file)["details"]["layers"].values()]
    assert len(noise) == 14
    assert min(noise) > 20
    other = folder_of(tmp_path, num_hidden_layers=3)
    assert main(["--tokens", "32", "--model", other, "--scales", str(file)]) == InputError.exit_status
    assert "whose configuration differs from" in capsys.readouterr().err


def test_recalibration_restores_a_corrupted_layer_and_says_what_it_was_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder_of(tmp_path)
    status, document = probe(capsys, "--model", model, "--inject", "corrupted-scales", "--recalibrate")
    assert (status, document["status"]) == (0, "ok")
    assert value(document, "signal_to_noise", of="worst layer, before") < 10
    assert value(document, "signal_to_noise", of="worst layer") > 20
    layer = document["details"]["layers"]["layers.1.self_attn.q_proj"]
    assert layer["before"]["saturated"] > 0.5
    assert layer["after"]["saturated"] < 0.01


def test_old_scales_are_the_before_of_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, old = folder_of(tmp_path), tmp_path / "old.json"
    probe(capsys, "--model", model, "--recalibrate", "--output-json", str(old))
    document = read_back(old)
    document["details"]["scales"]["inputs"]["layers.0.mlp.up_proj"] *= 200_000
    old.write_text(json.dumps(document), encoding="utf-8")
    status, document = probe(capsys, "--model", model, "--scales", str(old))
    assert (status, list(document["details"]["below_floor"])) == (1, ["layers.0.mlp.up_proj"])
    assert value(document, "underflow_share") > 0.2
    status, document = probe(capsys, "--model", model, "--scales", str(old), "--recalibrate")
    assert status == 0
    assert value(document, "signal_to_noise", of="worst layer, before") < 20


def test_calibration_takes_fewer_batches_where_the_step_has_no_time_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", folder_of(tmp_path), "--recalibrate"]
    assert probe(capsys, *words)[1]["effective"]["calibration_batches"] == 4
    monkeypatch.setenv(budget.VARIABLE, "0.001")
    status, document = probe(capsys, *words)
    assert (status, document["effective"]["calibration_batches"]) == (0, 1)


def test_a_percentile_gives_up_outliers_and_the_most_recent_batch_forgets_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for recipe in RECIPES:
        words = ["--recalibrate", "--recipe", recipe, "--percentile", "99.9"]
        status, document = probe(capsys, "--model", folder_of(tmp_path), *words)
        assert status == 0
        assert document["details"]["scales"]["recipe"] == recipe
        found[recipe] = document["details"]["scales"]["inputs"]["layers.0.mlp.down_proj"]
    assert found["percentile"] < found["most-recent"] <= found["max"]
    assert scale_by("max", [3.0, 1.0, 2.0], 10) == 0.3
    assert scale_by("most-recent", [3.0, 1.0, 2.0], 10) == 0.2


@pytest.mark.parametrize("recipe", sorted(NOTHING_TO_RECALIBRATE))
def test_a_recipe_without_stored_scales_says_that_there_is_nothing_to_recalibrate(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = probe(capsys, "--recalibrate", "--recipe", recipe)
    assert (status, document["status"]) == (NOT_APPLICABLE, "not_applicable")
    assert "nothing to recalibrate" in document["reason"]
    assert main(["--recipe", recipe]) == InputError.exit_status


def test_scales_of_other_weights_are_stale_and_refused_by_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = folder_of(tmp_path), tmp_path / "scales.json"
    probe(capsys, "--model", model, "--recalibrate", "--output-json", str(file))
    document = read_back(file)
    document["details"]["scales"]["weights"]["layers.1.mlp.up_proj"] *= 1.5
    file.write_text(json.dumps(document), encoding="utf-8")
    for run in (main, precision_power_sweep.PROBE.main):
        words = ["--tokens", "32", "--model", model, "--scales", str(file)]
        assert run(words) == InputError.exit_status
        assert (
            "stale: the weights of layers.1.mlp.up_proj changed after calibration" in capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibration-batches", "0"], "--calibration-batches must be 1 or more"),
        (["--percentile", "0"], "--percentile must be above 0"),
        (["--percentile", "nan"], "--percentile nan: must be a number"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == InputError.exit_status
    assert message in capsys.readouterr().err


TINY = model_shape("tiny")


def written(path: Path, **changed: object) -> Path:
    each = dict.fromkeys(layer_names(TINY), 0.01)
    content = Scales("tiny", digest_of(TINY), "max", each, each).to_json()
    path.write_text(json.dumps({**content, **changed}), encoding="utf-8")
    return path


def test_good_scales_are_read_bare_and_from_within_a_document(tmp_path: Path) -> None:
    names = layer_names(TINY)
    bare = read_scales(written(tmp_path / "bare.json"), TINY, names)
    wrapped = tmp_path / "document.json"
    wrapped.write_text(json.dumps({"details": {"scales": bare.to_json()}}), encoding="utf-8")
    assert read_scales(wrapped, TINY, names) == replace(bare, source=str(wrapped))
    assert len(names) == 28


@pytest.mark.parametrize("kind", ["input", "weight"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0, -1.0, "0.1", None, True])
def test_a_scale_that_is_no_number_above_zero_is_refused_by_its_layers_name(
    tmp_path: Path, wrong: object, kind: str
) -> None:
    names = layer_names(TINY)
    scales = {**dict.fromkeys(names, 0.01), names[5]: wrong}
    with pytest.raises(InputError, match=rf"the {kind} scale of {names[5]} is .* --recalibrate"):
        read_scales(written(tmp_path / "scales.json", **{f"{kind}s": scales}), TINY, names)


def test_missing_and_unknown_layers_are_refused_by_name(tmp_path: Path) -> None:
    names = layer_names(TINY)
    fewer = dict.fromkeys(names[1:], 0.01)
    with pytest.raises(InputError, match=f"no input scale for {names[0]}"):
        read_scales(written(tmp_path / "scales.json", inputs=fewer), TINY, names)
    more = dict.fromkeys((*names, "layers.9.mlp.up_proj"), 0.01)
    with pytest.raises(
        InputError, match=r"input scale for layers.9.mlp.up_proj, a layer that tiny does not have"
    ):
        read_scales(written(tmp_path / "scales.json", inputs=more), TINY, names)
    with pytest.raises(InputError, match="no weight scales"):
        read_scales(written(tmp_path / "scales.json", weights=None), TINY, names)
    with pytest.raises(InputError, match="unknown recipe 'guess'"):
        read_scales(written(tmp_path / "scales.json", recipe="guess"), TINY, names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[1, 2]", "no scales in this file"),
        ('{"details": {"scales": null}}', "no scales in this file"),
        ('{"format": 1}', "scales of format 1, expected 2"),
        ('{"format": 2, "model": "8b", "model_digest": "x"}', "calibrated for '8b'"),
    ],
)
def test_a_file_that_holds_no_such_scales_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "scales.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_scales(path, TINY, layer_names(TINY))
    with pytest.raises(InputError, match="no such file"):
        read_scales(tmp_path / "none.json", TINY, layer_names(TINY))


def test_fp8_layers_multiply_as_the_formula_says() -> None:
    model = build_model(TINY, torch.bfloat16, "cpu")
    linear = model.model.layers[0].mlp.up_proj
    weight = linear.weight.float()
    convert(model)
    fp8 = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, 5, TINY.hidden, generator=torch.Generator().manual_seed(1)).bfloat16()
    scale, weight_scale = e4m3_scale(x), e4m3_scale(weight)
    expected = (quantise(x, scale).float() * scale) @ (
        quantise(weight, weight_scale).float() * weight_scale
    ).t()
    assert torch.allclose(fp8(x).float(), expected, rtol=2e-2, atol=2e-2)
    assert fp8(x).shape == (3, 5, TINY.ff)
    assert model.lm_head.weight.dtype == torch.bfloat16
