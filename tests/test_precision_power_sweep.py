"""The sweep for real on a small model, and the analyzer on what it writes."""

import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError
from runner.probes import power_efficiency_analyzer, precision_power_sweep
from runner.probes.contract import NOT_APPLICABLE, SYMPTOM
from tests.test_precision import folder_of


def sweep(tmp_path: Path, *arguments: str, name: str = "sweep.json") -> tuple[int, dict[str, Any]]:
    output = tmp_path / name
    words = ["--tokens", "32", "--window", "0.02", "--rounds", "2", "--model", folder_of(tmp_path)]
    status = precision_power_sweep.main([*words, "--output-json", str(output), *arguments])
    return status, json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}


def of(document: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {one["labels"]["mode"]: one for one in document["measurements"] if one["name"] == name}


def test_every_mode_reads_the_same_tokens_and_one_that_cannot_run_says_why(tmp_path: Path) -> None:
    status, document = sweep(tmp_path, "--modes", "fp16", "bf16", "fp8", "fp8_te", "--skip-compile")
    assert status == 0
    assert document["effective"]["modes"] == ["fp16", "bf16", "fp8"]
    assert document["details"]["unavailable"] == {"fp8_te": "Transformer Engine runs on GPUs only"}
    rates = of(document, "prefill_tokens_per_second")
    assert set(rates) == {"fp16", "bf16", "fp8"}
    assert all(len(one["samples"]) == 4 for one in rates.values())
    noise = {mode: one["value"] for mode, one in of(document, "signal_to_noise").items()}
    assert noise["fp16"] > noise["bf16"] > noise["fp8"] > 10
    ratios = of(document, "speed_ratio")
    assert set(ratios) == {"fp16", "fp8"}
    expected = [a / b for a, b in zip(rates["fp8"]["samples"], rates["bf16"]["samples"], strict=True)]
    assert ratios["fp8"]["samples"] == pytest.approx(expected)


def test_energy_is_measured_or_its_absence_has_a_reason(tmp_path: Path) -> None:
    _, document = sweep(tmp_path, "--modes", "bf16")
    assert bool(of(document, "tokens_per_joule")) != bool(document["details"]["no_energy"])


def test_only_modes_that_cannot_run_are_not_applicable(tmp_path: Path) -> None:
    status, document = sweep(tmp_path, "--modes", "fp8_te")
    assert (status, document["status"]) == (NOT_APPLICABLE, "not_applicable")
    assert "Transformer Engine runs on GPUs only" in document["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "0"], "must be 1 or more"),
        (["--tokens", "9999999"], "takes at most"),
        (["--rounds", "0"], "--rounds must be 1 or more"),
        (["--window", "nan"], "--window above 0"),
        (["--skip-compile", "--compile-mode", "default"], "contradict each other"),
        (["--model", "13b"], "no model '13b'"),
        (["--scales", "/nowhere/scales.json"], "cannot read the scales"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert precision_power_sweep.main(["--model", "tiny", *arguments]) == InputError.exit_status
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def made(path: Path, ratios: dict[str, list[float]], **effective: str) -> Path:
    """A document such as the sweep writes, with these ratios to bf16."""
    labels = {"model": "tiny", "batch_size": 1, "tokens": 128}
    document = {
        "probe": "precision_power_sweep",
        "method_version": 1,
        "status": "ok",
        "effective": effective,
        "measurements": [
            {
                "name": "speed_ratio",
                "labels": {**labels, "mode": mode},
                "value": statistics.median(samples),
                "unit": "1",
                "statistic": "median",
                "samples": samples,
            }
            for mode, samples in ratios.items()
        ],
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def noisy(centre: float, seed: int) -> list[float]:
    source = random.Random(seed)
    return [centre * source.gauss(1, 0.01) for _ in range(8)]


def compared(capsys: pytest.CaptureFixture[str], *paths: Path, tolerance: str = "0.05") -> tuple[int, Any]:
    words = [*map(str, paths), "--tolerance", tolerance]
    status = power_efficiency_analyzer.main(words)
    return status, json.loads(capsys.readouterr().out)


def test_a_mode_that_lost_a_fifth_is_a_regression_and_what_else_changed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = made(tmp_path / "a.json", {"fp8": noisy(1.5, 1), "fp16": noisy(1.0, 2)}, scales="static")
    after = made(tmp_path / "b.json", {"fp8": noisy(1.2, 3), "fp16": noisy(1.0, 4)}, scales="dynamic")
    status, document = compared(capsys, before, after)
    assert status == SYMPTOM
    assert document["details"]["verdicts"] == {"fp8": "regression", "fp16": "no change"}
    assert "fp8 lost 20% of its speed ratio" in document["reason"]
    assert document["details"]["also_different"] == ["scales static → dynamic"]
    status, document = compared(capsys, after, before)
    assert (status, document["details"]["verdicts"]["fp8"]) == (0, "improvement")


def test_noise_alone_is_seldom_called_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called = 0
    for seed in range(40):
        before = made(tmp_path / "a.json", {"fp8": noisy(1.5, seed), "fp16": noisy(0.3, seed + 500)})
        after = made(tmp_path / "b.json", {"fp8": noisy(1.5, seed + 1000), "fp16": noisy(0.3, seed + 1500)})
        _, document = compared(capsys, before, after)
        called += any(
            one in {"regression", "improvement"} for one in document["details"]["verdicts"].values()
        )
    assert called <= 2


def test_a_sweep_compared_with_itself_is_no_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made(tmp_path / "a.json", {"fp8": [1.0, 2.0, 3.0, 1.5, 2.5]})
    status, document = compared(capsys, path, path)
    assert (status, document["details"]["verdicts"]) == (0, {"fp8": "no change"})


def test_too_few_samples_or_too_much_spread_are_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = made(tmp_path / "a.json", {"fp8": [1.0], "fp16": [0.5, 1.5, 0.7, 1.3, 1.0]})
    after = made(tmp_path / "b.json", {"fp8": [0.5], "fp16": [0.6, 1.4, 0.8, 1.2, 0.9]})
    status, document = compared(capsys, before, after)
    assert (status, set(document["details"]["verdicts"].values())) == (0, {"inconclusive"})


def test_the_analyzer_reads_what_the_sweep_writes_and_bare_takes_the_newest_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps = tmp_path / "power"
    sweeps.mkdir()
    for name in ("a.json", "b.json"):
        sweep(tmp_path, "--modes", "bf16", "fp8", name=f"power/{name}")
    capsys.readouterr()
    assert power_efficiency_analyzer.main(["--folder", str(sweeps), "--tolerance", "0.9"]) == 0
    assert set(json.loads(capsys.readouterr().out)["details"]["verdicts"]) == {"fp8"}


def test_what_cannot_be_compared_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = made(tmp_path / "good.json", {"fp8": noisy(1, 1)})
    other = made(tmp_path / "other.json", {"fp16": noisy(1, 1)})
    alone = made(tmp_path / "alone.json", {})
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    larger = tmp_path / "larger.json"
    larger.write_text(good.read_text().replace('"tokens": 128', '"tokens": 256'), encoding="utf-8")
    foreign = tmp_path / "foreign.json"
    foreign.write_text(good.read_text().replace("precision_power_sweep", "topology"), encoding="utf-8")
    for paths, message in [
        ((good,), "give two sweeps"),
        ((good, other), "no mode in common"),
        ((good, alone), "has no ratio to bf16"),
        ((good, broken), "not what a probe writes"),
        ((good, larger), "did different work: tokens 128 and 256"),
        ((good, foreign), "written by topology"),
        ((good, tmp_path / "none.json"), "cannot read"),
    ]:
        assert power_efficiency_analyzer.main([str(path) for path in paths]) == InputError.exit_status
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
    assert power_efficiency_analyzer.main(["--folder", str(tmp_path / "empty")]) == InputError.exit_status
    assert "holds 0 sweeps" in capsys.readouterr().err
