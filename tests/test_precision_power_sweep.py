"""The sweep for real on a small model, and how its windows become samples."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import InputError
from runner.kit import budget
from runner.kit.precision import measuring, power_sweep
from runner.kit.precision.counters import Sensors
from runner.kit.precision.energy import EnergyWindow, Tick, Trace
from runner.kit.precision.linear import block_linears
from runner.kit.precision.measuring import Energy, Windows, tally, timed, window_seconds
from runner.kit.precision.reporting import cost, of_modes
from runner.kit.probe import NOT_APPLICABLE
from runner.probes import fp8_transformer_engine, precision_power_sweep
from runner.sizing.models import model_shape
from tests.test_energy import Curve
from tests.test_precision import folder_of

pytest_plugins = ("tests.fp8_products",)


def sweep(tmp_path: Path, *arguments: str, name: str = "sweep.json") -> tuple[int, dict[str, Any]]:
    output = tmp_path / name
    words = ["--tokens", "32", "--window", "0.02", "--rounds", "2", "--model", folder_of(tmp_path)]
    status = precision_power_sweep.PROBE.main([*words, "--output-json", str(output), *arguments])
    return status, json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}


def of(document: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {one["labels"]["mode"]: one for one in document["measurements"] if one["name"] == name}


@pytest.mark.usefixtures("fp8_of_torch")
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
    assert document["requested"]["precision"]["fp8_te"] == "fp8_te"
    assert document["effective"]["precision"] == {"fp16": "fp16", "bf16": "bf16", "fp8": "fp8"}
    assert document["effective"]["compile_mode"] == {"fp16": "eager", "bf16": "eager", "fp8": "eager"}
    assert document["effective"]["implementation"]["fp8"] == "torch._scaled_mm, per tensor"
    assert document["effective"]["versions"]["torch"].startswith("2.")
    assert of(document, "fp8_share")["fp8"]["value"] == 1
    assert document["fallback_reason"] is None
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
        (["--tokens", "9999999"], "accepts at most"),
        (["--rounds", "0"], "--rounds must be 1 or more"),
        (["--window", "nan"], "--window nan: must be a number"),
        (["--pue", "0.5"], "--pue must be 1 or more"),
        (["--price-per-kwh", "nan"], "--price-per-kwh nan: must be a number"),
        (["--compile-deadline", "0"], "--compile-deadline must be above 0"),
        (["--model", "13b"], "no model '13b'"),
        (["--scales", "/nowhere/scales.json"], "cannot read the scales"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert precision_power_sweep.PROBE.main(["--model", "tiny", *arguments]) == InputError.exit_status
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_calibrated_scales_are_used_by_the_fp8_mode(tmp_path: Path) -> None:
    scales = tmp_path / "scales.json"
    words = ["--model", folder_of(tmp_path), "--tokens", "32", "--recalibrate", "--output-json", str(scales)]
    assert fp8_transformer_engine.PROBE.main(words) == 0
    status, document = sweep(tmp_path, "--modes", "bf16", "fp8", "--scales", str(scales))
    assert status == 0
    assert document["effective"]["scales"] == {"fp8": "static, max"}
    assert of(document, "signal_to_noise")["fp8"]["value"] > 15


def test_an_fp8_mode_that_multiplied_in_bf16_is_a_fallback_that_nobody_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(model: Any, static: object) -> dict[str, str]:
        return {name: "excluded by the layer list" for name, _ in block_linears(model)}

    monkeypatch.setattr("runner.kit.precision.arms.convert", none)
    status, document = sweep(tmp_path, "--modes", "bf16", "fp8")
    assert status == 0
    assert document["effective"]["precision"]["fp8"] == "bf16"
    assert document["fallback_reason"] == "fp8: only 0% of the GEMM time was in FP8 kernels"
    assert document["fallback_asked"] is False
    left = document["details"]["layers_left"]["fp8"]
    assert left["layers.0.mlp.up_proj"] == "not in FP8: excluded by the layer list"


class HostPower:
    """Joules of a host that draws 50 W, and 100 W more for each core that this process keeps busy."""

    name, tick_s = "host power", 0.001

    def read(self) -> float:
        return 50 * time.perf_counter() + 100 * time.process_time()


def test_a_sweep_with_a_counter_reports_joules_with_and_without_idle_power_and_their_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power_sweep, "counters_of", lambda _: ((HostPower(),), lambda: READING))
    words = ["--modes", "bf16", "fp16", "--window", "0.2", "--price-per-kwh", "0.1", "--pue", "1.2"]
    status, document = sweep(tmp_path, *words)
    # A host that was too busy for the watch has windows refused, rightly, with nothing at work as well.
    while document["details"]["energy_refused"] or document["details"]["no_idle_power"]:
        status, document = sweep(tmp_path, *words)
    assert status == 0
    assert (document["details"]["no_energy"], document["details"]["energy"]) == (None, ["host power"])
    [idle] = [one["value"] for one in document["measurements"] if one["name"] == "idle_power"]
    assert 49 < idle < 80
    for mode in ("bf16", "fp16"):
        samples = {name: of(document, name)[mode]["samples"] for name in WITH_ENERGY}
        for rate, watts, per_joule in zip(
            of(document, "prefill_tokens_per_second")[mode]["samples"],
            samples["power"],
            samples["tokens_per_joule"],
            strict=True,
        ):
            assert watts > idle
            assert rate / watts == pytest.approx(per_joule, rel=1e-6)
        above = samples["tokens_per_joule_above_idle"]
        assert all(one > other for one, other in zip(above, samples["tokens_per_joule"], strict=True))
        assert samples["sm_clock"] == [1.9e9] * 4
        cost_of = of(document, "energy_cost")[mode]
        assert (cost_of["labels"]["price_per_kwh"], cost_of["labels"]["pue"]) == (0.1, 1.2)
    assert len(of(document, "energy_ratio")["fp16"]["samples"]) == 4
    assert of(document, "energy_ratio")["fp16"]["labels"]["compiled"] is False


WITH_ENERGY = ("tokens_per_joule", "tokens_per_joule_above_idle", "power", "sm_clock", "temperature")
READING = Sensors(1.9e9, 3.9e9, 60.0, ())


def window(
    watts: float, iteration_s: float, *, lost: bool = False, sensors: tuple[Sensors, ...] = ()
) -> EnergyWindow:
    """Five seconds of work at constant power, watched to the tick."""
    ticks = [Tick(watts * n / 10, n / 10, n / 10 + 0.099) for n in range(51)]
    trace = Trace(Curve(watts), ticks, "the counter is gone" if lost else None)
    ends = tuple((n + 1) * iteration_s for n in range(round(5 / iteration_s)))
    return EnergyWindow(0.0, ends, (trace,), sensors)


def test_tokens_per_joule_are_given_with_and_without_idle_power() -> None:
    found = tally({"bf16": [window(500, 0.1)] * 4, "fp8": [window(600, 0.05)] * 4}, 1000, 200.0, None)
    assert (found.refused, found.no_energy) == ([], None)
    assert found.taken["bf16"].per_joule == pytest.approx([1000 / 50] * 4)
    assert found.taken["bf16"].above_idle == pytest.approx([1000 / 30] * 4)
    assert found.taken["fp8"].per_joule == pytest.approx([1000 / 30] * 4)
    assert found.taken["fp8"].watts == pytest.approx([600] * 4)
    shape = model_shape("tiny")
    found_of = {
        (one.name, one.labels["mode"]): one.value
        for one in [
            *of_modes(found, {"bf16": 40, "fp8": 20}, {"fp8": 0.9}, shape, {"model": "tiny"}),
            *cost(found, 0.12, 1.5, {"model": "tiny"}),
        ]
    }
    assert found_of["joules_per_token", "bf16"] == pytest.approx(0.05)
    assert found_of["joules_per_token_above_idle", "bf16"] == pytest.approx(0.03)
    assert found_of["energy_ratio", "fp8"] == pytest.approx(5 / 3)
    # 0.05 J × 1e6 = 50 kJ = 0.01389 kWh
    assert found_of["energy_cost", "bf16"] == pytest.approx(50 / 3600 * 1.5 * 0.12)


def test_idle_power_above_the_power_at_work_gives_no_number_above_idle() -> None:
    found = tally({"bf16": [window(100, 0.1)] * 4}, 1000, 150.0, None)
    assert found.taken["bf16"].per_joule
    assert found.taken["bf16"].above_idle == []


def test_a_refused_window_takes_its_turn_from_every_mode_and_too_many_take_all() -> None:
    good, bad = window(500, 0.1), window(500, 0.1, lost=True)
    found = tally({"bf16": [good] * 4, "fp8": [good, bad, good, good]}, 1000, None, None)
    assert [len(one.per_joule) for one in found.taken.values()] == [3, 3]
    assert [len(one.rate) for one in found.taken.values()] == [4, 4]
    assert found.refused == ["fp8, window 2: the counter is gone"]
    found = tally({"bf16": [good] * 4, "fp8": [good, bad, bad, bad]}, 1000, None, None)
    assert [len(one.per_joule) for one in found.taken.values()] == [0, 0]
    assert found.no_energy == "3 of 4 turns had a refused window: fp8, window 2: the counter is gone"


def test_clocks_temperature_and_throttling_stand_beside_the_joules() -> None:
    hot = replace(READING, sm_clock_hz=1.2e9, temperature_c=85.0, throttled_by=("software power cap",))
    [taken] = tally(
        {"fp8": [window(500, 0.1, sensors=(READING, hot, hot))] * 2}, 1, None, None
    ).taken.values()
    assert taken.clock_hz == [1.2e9, 1.2e9]
    assert taken.temperature_c == [85.0, 85.0]
    assert taken.throttled == pytest.approx([2 / 3, 2 / 3])
    assert taken.throttled_by == ("software power cap",)


def test_a_step_without_time_for_another_round_takes_fewer_windows_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(budget.VARIABLE, "0.001")
    status, document = sweep(tmp_path, "--modes", "bf16", "fp16")
    assert (status, document["requested"]["windows"], document["effective"]["windows"]) == (0, 4, 2)
    assert all(len(one["samples"]) == 2 for one in of(document, "speed_ratio").values())
    assert "took 2 of 4 windows per mode: time limit" in capsys.readouterr().err


def test_windows_are_as_long_as_the_energy_counter_needs() -> None:
    assert window_seconds(Energy((Curve(100, tick_s=0.1),))) == 5.0
    assert window_seconds(Energy((Curve(100, tick_s=0.001),))) == 0.2
    assert window_seconds(Energy()) == 0.2


def test_energy_whose_windows_do_not_fit_the_time_is_left_out_with_the_reason_and_speed_is_kept() -> None:
    def work() -> None:
        time.sleep(0.001)

    energy = Energy((Curve(100, tick_s=0.1),))
    two = {"bf16": work, "fp8": work}
    found = timed(two, 10, energy, Windows(None, 1), budget.Budget(time.monotonic() + 15))
    assert found.tally.no_energy is not None
    assert found.tally.no_energy.startswith("it needs 4 windows of 5 s; 1")
    assert found.no_idle == found.tally.no_energy
    assert (found.counters, found.window_s, found.asked, found.taken) == ([], 0.2, 2, 2)
    assert len(found.tally.taken["bf16"].rate) == 2


@pytest.mark.parametrize(
    ("fits", "rounds", "idle"),
    [
        (4.5, 1, False),
        (6.5, 1, True),
        (8.5, 2, False),
        (10.5, 2, True),
        (13.0, 2, True),
        (15.0, 3, True),
        (99, 6, True),
    ],
)
def test_rounds_of_energy_come_before_idle_power_and_leave_it_time_after_the_second(
    monkeypatch: pytest.MonkeyPatch, fits: float, rounds: int, idle: bool
) -> None:
    """Simulated: a window takes exactly one second, and nothing else takes any time."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def one_second(*_: object) -> EnergyWindow:
        clock[0] += 1.0
        return window(500, 0.1)

    monkeypatch.setattr(measuring, "run_window", one_second)
    energy = Energy((Curve(500, tick_s=0.02),))
    work = dict.fromkeys(("bf16", "fp8"), lambda: None)
    found = timed(work, 10, energy, Windows(None, None), budget.Budget(clock[0] + fits))
    assert (found.tally.no_energy, found.taken) == (None, 2 * rounds)
    assert (found.idle is not None) == idle
    assert idle or "it needs 2 windows of 1 s" in str(found.no_idle)
