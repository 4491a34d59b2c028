"""Two sweeps compared: the right verdict at a known effect and noise, and what explains it by name."""

import json
import os
import random
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import InputError
from runner.kit.probe import OK, SYMPTOM
from runner.probes import power_efficiency_analyzer
from runner.record.model import Document, RunbookRef
from runner.record.store import Store
from tests.evidence_samples import record, step
from tests.test_precision_power_sweep import sweep

# What the sweep takes of each mode by default where energy can be read.
WINDOWS = 12
MODES = {"fp16": 4.0, "bf16": 4.2, "fp8": 6.1, "fp8_te": 6.4}


def document_of(
    series: dict[str, list[float]],
    name: str = "tokens_per_joule",
    beside: dict[str, float] | None = None,
    batch_size: int = 1,
    **effective: Any,
) -> dict[str, Any]:
    """A document such as the sweep writes, with these samples of each mode and `beside` measured in each."""
    labels = {"model": "tiny", "batch_size": batch_size, "tokens": 128}
    units = {"tokens_per_joule": "token/J", "sm_clock": "Hz", "temperature": "degC"}

    def one(metric: str, mode: str, samples: list[float]) -> dict[str, Any]:
        return {
            "name": metric,
            "labels": {**labels, "mode": mode},
            "value": statistics.median(samples),
            "unit": units.get(metric, "1"),
            "statistic": "median",
            "samples": samples,
        }

    measurements = [one(name, mode, samples) for mode, samples in series.items()]
    measurements += [one(key, mode, [value]) for mode in series for key, value in (beside or {}).items()]
    return {
        "probe": "precision_power_sweep",
        "method_version": 2,
        "status": "ok",
        "effective": effective,
        "measurements": measurements,
    }


def made(path: Path, series: dict[str, list[float]], **more: Any) -> Path:
    path.write_text(json.dumps(document_of(series, **more)), encoding="utf-8")
    return path


def noisy(seed: int, /, count: int = WINDOWS, **changed: float) -> dict[str, list[float]]:
    """Samples of every mode with 1 % of noise, the named modes multiplied."""
    source = random.Random(seed)
    return {
        mode: [centre * changed.get(mode, 1.0) * source.gauss(1, 0.01) for _ in range(count)]
        for mode, centre in MODES.items()
    }


def compared(capsys: pytest.CaptureFixture[str], *words: Path | str) -> tuple[int, Any]:
    capsys.readouterr()
    status = power_efficiency_analyzer.PROBE.main([str(word) for word in words])
    return status, json.loads(capsys.readouterr().out)


def verdicts_over_100_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], **changed: float
) -> list[dict[str, str]]:
    found = []
    for seed in range(100):
        before = made(tmp_path / "a.json", noisy(seed))
        after = made(tmp_path / "b.json", noisy(seed + 1000, WINDOWS, **changed))
        found.append(compared(capsys, before, after)[1]["details"]["verdicts"])
    return found


def test_a_change_of_three_percent_in_one_percent_of_noise_is_found_in_95_of_100_pairs_with_12_windows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = verdicts_over_100_pairs(tmp_path, capsys, fp8=0.97)
    assert sum(one["fp8"] == "regression" for one in worse) >= 95
    others = ("fp16", "bf16", "fp8_te")
    assert sum(any(one[mode] != "inconclusive" for mode in others) for one in worse) <= 5


def test_an_improvement_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = made(tmp_path / "a.json", noisy(1)), made(tmp_path / "b.json", noisy(2, fp8_te=1.03))
    status, document = compared(capsys, before, after)
    assert status == 0
    assert document["details"]["verdicts"]["fp8_te"] == "improvement"


def test_no_change_is_falsely_reported_in_at_most_5_of_100_pairs_over_all_modes_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = verdicts_over_100_pairs(tmp_path, capsys)
    assert sum(any(one != "inconclusive" for one in pair.values()) for pair in found) <= 5


def test_a_sweep_compared_with_itself_is_never_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = {mode: [centre] * WINDOWS for mode, centre in MODES.items()}
    for series in (noisy(7), flat, {"fp8": [1.0]}, {"fp8": [1.0, 2.0, 9.0]}):
        path = made(tmp_path / "a.json", series)
        status, document = compared(capsys, path, path)
        assert status == 0
        assert set(document["details"]["verdicts"].values()) == {"inconclusive"}


def test_a_clear_change_within_the_tolerance_and_too_few_windows_are_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = made(tmp_path / "a.json", noisy(1)), made(tmp_path / "b.json", noisy(2, fp8=0.9))
    assert (
        compared(capsys, before, after, "--tolerance", "0.2")[1]["details"]["verdicts"]["fp8"]
        == "inconclusive"
    )
    before, after = made(tmp_path / "a.json", noisy(1, 2)), made(tmp_path / "b.json", noisy(2, 2, fp8=0.5))
    assert compared(capsys, before, after)[1]["details"]["verdicts"]["fp8"] == "inconclusive"


BESIDE = {"sm_clock": 1.965e9, "temperature": 60.0, "throttled_share": 0.0, "fp8_share": 1.0}
SAYS = {
    "precision": {"fp8": "fp8"},
    "compile_mode": {"fp8": "whole"},
    "throttled_by": {"fp8": []},
    "scales": {"fp8": "dynamic"},
    "versions": {"torch": "2.13.0", "driver": "580"},
}


@pytest.mark.parametrize(
    ("beside", "effective", "batch_size", "named"),
    [
        ({"sm_clock": 1.2e9}, {}, 1, "clocks 1.97 GHz → 1.20 GHz"),
        ({"throttled_share": 0.8}, {}, 1, "share of time throttled 0 → 0.800"),
        (
            {},
            {"throttled_by": {"fp8": ["software power cap"]}},
            1,
            "throttled by nothing → software power cap",
        ),
        ({"temperature": 84.0}, {}, 1, "temperature 60.0 °C → 84.0 °C"),
        ({"fp8_share": 0.4}, {}, 1, "FP8 share 1 → 0.400"),
        ({}, {"precision": {"fp8": "bf16"}}, 1, "effective precision fp8 → bf16"),
        ({}, {"scales": {"fp8": "static, max"}}, 1, "scales dynamic → static, max"),
        ({}, {"versions": {"torch": "2.14.0", "driver": "580"}}, 1, "torch 2.13.0 → 2.14.0"),
        ({}, {}, 8, "batch size 1 → 8"),
    ],
)
def test_the_change_that_explains_a_regression_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    beside: dict[str, float],
    effective: dict[str, Any],
    batch_size: int,
    named: str,
) -> None:
    before = made(tmp_path / "a.json", {"fp8": noisy(1)["fp8"]}, beside=BESIDE, **SAYS)
    after = made(
        tmp_path / "b.json",
        {"fp8": noisy(2, fp8=0.8)["fp8"]},
        beside=BESIDE | beside,
        batch_size=batch_size,
        **(SAYS | effective),
    )
    status, document = compared(capsys, before, after)
    assert status == SYMPTOM
    assert document["details"]["explanations"] == {"fp8": [named]}
    assert document["reason"].startswith("fp8 lost 2")
    assert document["reason"].endswith(f"of its tokens per joule: other differences: {named}")


@pytest.mark.parametrize(
    ("effective", "named"),
    [
        ({"implementation": {"fp8": "torch._scaled_mm, per tensor"}}, "layers torchao, dynamic row-wise →"),
        ({"compile_mode": {"fp8": "eager"}}, "compile mode whole → eager"),
    ],
)
def test_a_mode_that_did_other_work_is_shown_and_not_judged_while_the_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], effective: dict[str, Any], named: str
) -> None:
    says = {**SAYS, "implementation": {"fp8": "torchao, dynamic row-wise", "bf16": None}}
    before = made(tmp_path / "a.json", noisy(1), **says)
    after = made(tmp_path / "b.json", noisy(2, fp8=0.7), **(says | effective))
    status, document = compared(capsys, before, after)
    assert (status, document["details"]["verdicts"]["fp8"]) == (OK, "not judged")
    assert document["reason"].startswith(f"fp8 not judged: {named}")
    changes = {
        one["labels"]["mode"]: one["value"] for one in document["measurements"] if "change" in one["name"]
    }
    assert changes["fp8"] == pytest.approx(0.7, rel=0.02)
    worse = made(tmp_path / "c.json", noisy(3, fp8=0.7, bf16=0.8), **(says | effective))
    status, document = compared(capsys, before, worse)
    assert (status, document["details"]["verdicts"]["bf16"]) == (SYMPTOM, "regression")
    assert document["reason"].startswith("bf16 lost 2")


def test_a_regression_that_nothing_explains_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = made(tmp_path / "a.json", noisy(1)), made(tmp_path / "b.json", noisy(2, bf16=0.8))
    assert "bf16 lost 21%" in compared(capsys, before, after)[1]["reason"]
    assert "no other recorded difference" in compared(capsys, before, after)[1]["reason"]


def test_without_energy_in_both_the_speed_over_bf16_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = made(tmp_path / "a.json", noisy(1), name="speed_ratio")
    after = made(tmp_path / "b.json", noisy(2, fp8=0.7), name="speed_ratio")
    status, document = compared(capsys, before, after)
    assert (status, document["effective"]["compared"]) == (SYMPTOM, "speed_ratio")
    assert "fp8 lost 31% of its speed over bf16" in document["reason"]


def test_speeds_of_two_processes_on_a_cpu_are_shown_and_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = made(tmp_path / "a.json", noisy(1), name="speed_ratio", device="cpu")
    after = made(tmp_path / "b.json", noisy(2, fp8=0.7), name="speed_ratio", device="cpu")
    status, document = compared(capsys, before, after)
    assert (status, set(document["details"]["verdicts"].values())) == (OK, {"not judged"})
    assert "no verdict on speeds of a CPU" in document["reason"]
    energy = [
        made(tmp_path / f"{seed}.json", noisy(seed, fp8=change), device="cpu")
        for seed, change in ((1, 1), (2, 0.7))
    ]
    assert compared(capsys, *energy)[0] == SYMPTOM


def test_the_analyzer_reads_what_the_sweep_writes_and_bare_takes_the_newest_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artifacts" / "power"
    folder.mkdir(parents=True)
    made(folder / "c.json", noisy(1))
    sweep(tmp_path, "--modes", "bf16", "fp16", name="artifacts/power/b.json")
    (folder / "a.json").write_bytes((folder / "b.json").read_bytes())
    for age, name in enumerate(("c.json", "b.json", "a.json")):
        os.utime(folder / name, (1_700_000_000 + age, 1_700_000_000 + age))
    monkeypatch.chdir(tmp_path)
    status, document = compared(capsys)
    assert status == 0
    assert Path(document["details"]["before"]).name == "b.json"
    assert Path(document["details"]["after"]).name == "a.json"
    assert "fp16" in document["details"]["verdicts"]


def kept(store: Store, number: int, document: dict[str, Any], **changes: Any) -> Path:
    """A record of the entry with this sweep in it, `number` days after the first."""
    read = Document.model_validate(document)
    swept = step("sweep", *read.measurements, probe=read.probe, effective=read.effective)
    return store.save(
        record(
            swept,
            run_id=f"r{number}",
            runbook=RunbookRef(id="fp8-power-regression", number=5, title="Power"),
            started_at=datetime(2026, 11, number + 1, tzinfo=UTC),
            **changes,
        )
    )


def test_the_latest_record_is_compared_with_the_first_of_the_same_work_in_the_data_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "data", secrets=())
    kept(store, 0, document_of(noisy(0, fp8=9.0), batch_size=8))
    first = kept(store, 1, document_of(noisy(1)))
    kept(store, 2, document_of(noisy(2, fp8=1.5)))
    last = kept(store, 3, document_of(noisy(3, fp8=0.9)))
    kept(store, 4, document_of(noisy(4, fp8=5.0)), simulated=True)
    status, document = compared(capsys, "--data", tmp_path / "data")
    assert status == SYMPTOM
    assert document["details"]["verdicts"]["fp8"] == "regression"
    assert compared(capsys, first, last)[1]["details"]["verdicts"] == document["details"]["verdicts"]
    assert power_efficiency_analyzer.PROBE.main(["--data", str(tmp_path / "none")]) == InputError.exit_status
    assert "holds 0 sweeps" in capsys.readouterr().err
    assert power_efficiency_analyzer.PROBE.main(["--data", "x", "a.json", "b.json"]) == InputError.exit_status


def test_what_cannot_be_compared_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = made(tmp_path / "good.json", {"fp8": noisy(1)["fp8"]})
    other = made(tmp_path / "other.json", {"fp16": noisy(1)["fp16"]})
    empty = made(tmp_path / "empty.json", {})
    zero = made(tmp_path / "zero.json", {"fp8": [0.0] * 12})
    uneven = made(tmp_path / "uneven.json", {"fp8": [1.0] * 5, "bf16": [1.0] * 4})
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    larger = tmp_path / "larger.json"
    larger.write_text(good.read_text().replace('"model": "tiny"', '"model": "8b"'), encoding="utf-8")
    foreign = tmp_path / "foreign.json"
    foreign.write_text(good.read_text().replace("precision_power_sweep", "topology"), encoding="utf-8")
    for paths, message in [
        ((good,), "expected two sweeps"),
        ((good, other), "no mode in common"),
        ((good, empty), "no measurements"),
        ((good, zero), "samples must be positive"),
        ((uneven, uneven), "same number of turns"),
        ((good, broken), "not a probe's document"),
        ((good, larger), "ran different models: tiny and 8b"),
        ((good, foreign), "written by topology"),
        ((good, tmp_path / "none.json"), "no such file"),
    ]:
        assert power_efficiency_analyzer.PROBE.main([str(path) for path in paths]) == InputError.exit_status
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
    assert (
        power_efficiency_analyzer.PROBE.main(["--folder", str(tmp_path / "empty")]) == InputError.exit_status
    )
    assert "holds 0 sweeps" in capsys.readouterr().err
