"""The FP8 product: torch's own against the fp32 one in its place, and what the probes say where the latter runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.entry.model import Phase
from runner.entry.read import read_runbook
from runner.kit.precision import product
from runner.kit.precision.linear import convert, e4m3_scale, quantise
from runner.kit.precision.product import IN_FP32, NATIVE, fp8_product, in_fp32, native, why_not_native
from runner.kit.probe import NOT_APPLICABLE
from runner.kit.transformer import build_model
from runner.probes import fp8_transformer_engine, power_efficiency_analyzer, precision_power_sweep
from runner.record.judge import judge_claims, judge_expectations
from runner.record.model import ClaimState, StepResult, StepStatus, Verdict
from tests import evidence_samples
from tests.test_precision import TINY, folder_of, value
from tests.test_precision_power_sweep import of

pytest_plugins = ("tests.fp8_products",)

ROOT = Path(__file__).parents[1]
SLOW = str(ROOT / "tests" / "slow_fp8")


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.usefixtures("fp8_of_torch")
def test_the_fp32_product_is_torchs_own_to_fp32_rounding(rowwise: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(48, 64, generator=generator), torch.randn(32, 64, generator=generator)
    scales = [e4m3_scale(x), e4m3_scale(weight)]
    if rowwise:
        scales = [values.abs().amax(1, keepdim=True) / 448 for values in (x, weight)]
    a, b = quantise(x, scales[0]), quantise(weight, scales[1]).t()
    right = scales[1].t() if rowwise else scales[1]
    ours, theirs = (multiply(a, b, scales[0], right, torch.float32) for multiply in (in_fp32(), native))
    # 64 products of fp32: each rounds by 2⁻²⁴ at most.
    assert torch.allclose(ours, theirs, rtol=64 * 2**-24, atol=64 * 2**-24 * float(theirs.abs().max()))
    assert in_fp32()(a, b, scales[0], right, torch.bfloat16).dtype == torch.bfloat16


class Slow:
    """A product at this many multiplications a second; keeps what each run of it cost, in seconds."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.cost: list[float] = []

    def __call__(self, a: Any, b: Any, scale_a: Any, scale_b: Any, dtype: Any, /) -> Any:
        self.cost.append(a.shape[0] * a.shape[1] * b.shape[1] / self.rate)
        time.sleep(self.cost[-1])
        return in_fp32()(a, b, scale_a, scale_b, dtype)


# What a Xeon with AMX does, and a tenth of it.
@pytest.mark.parametrize("rate", [12e6, 1.2e6])
def test_a_hopelessly_slow_product_is_found_out_within_a_second_and_no_shape_that_takes_longer_is_run(
    rate: float,
) -> None:
    slow = Slow(rate)
    why_not = why_not_native(slow)
    assert why_not is not None
    assert why_not.startswith("torch._scaled_mm takes ")
    assert sum(slow.cost) < 1.1


def test_a_product_as_fast_as_the_fp32_one_is_used() -> None:
    assert why_not_native(in_fp32()) is None


def test_a_product_that_is_refused_is_not_used_and_its_message_is_kept() -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("could not create a primitive descriptor\nand more")

    assert (
        why_not_native(refused)
        == "torch._scaled_mm fails on this CPU (could not create a primitive descriptor)"
    )


def test_a_gpu_always_multiplies_with_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Any) -> str:
        raise AssertionError("a GPU's product is not tried out")

    monkeypatch.setattr(product, "why_not_native", never)
    assert (fp8_product("cuda").native, fp8_product("cuda").described) == (True, NATIVE)


@pytest.mark.usefixtures("fp8_in_fp32")
def test_compiled_layers_multiply_in_fp32_too_and_without_a_break_in_the_graph() -> None:
    model = build_model(TINY, torch.bfloat16, "cpu")
    convert(model)
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, 5, TINY.hidden, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.no_grad():
        compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x), layer(x))


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = fp8_transformer_engine.PROBE.main(["--tokens", "32", *arguments])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


ACCURACY = ("signal_to_noise", "saturated_share", "underflow_share")


@pytest.mark.parametrize("fault", [(), ("--inject", "corrupted-scales"), ("--inject", "bf16-layers")])
def test_both_products_give_the_same_accuracy_and_find_the_same_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, fault: tuple[str, ...]
) -> None:
    words = ["--model", folder_of(tmp_path), *fault]
    request.getfixturevalue("fp8_of_torch")
    status, own = examined(capsys, *words)
    request.getfixturevalue("fp8_in_fp32")
    again, ours = examined(capsys, *words)
    assert status == again == (1 if fault else 0)
    for name in ACCURACY:
        mine, theirs = (
            [one["value"] for one in document["measurements"] if one["name"] == name]
            for document in (ours, own)
        )
        # The same products in fp32; their sums may fall to another side when they are rounded to bf16.
        assert mine == pytest.approx(theirs, abs=0.05)
    assert ours["details"]["layers_not_in_fp8"] == own["details"]["layers_not_in_fp8"]
    assert list(ours["details"]["below_floor"]) == list(own["details"]["below_floor"])


@pytest.mark.usefixtures("fp8_in_fp32")
def test_layers_multiplied_in_fp32_count_as_quantised_under_that_name_and_have_no_share_of_fp8_kernels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document = examined(capsys, "--model", folder_of(tmp_path))
    assert (status, document["fallback_reason"]) == (0, None)
    assert document["effective"]["product"] == f"{IN_FP32}: torch._scaled_mm fails on this CPU (no kernel)"
    assert value(document, "layers_in_fp8", product=IN_FP32) == 14
    assert value(document, "layers_not_in_fp8", product=IN_FP32) == 0
    assert "fp8_share" not in {one["name"] for one in document["measurements"]}
    assert list(document["details"]["kernels"]) == [product.OPERATOR]


def result(document: dict[str, Any], step_id: str, phase: Phase) -> StepResult:
    status = StepStatus.SYMPTOM if document["status"] == "symptom" else StepStatus.PASSED
    return evidence_samples.step(
        step_id, phase=phase, status=status, measurements=tuple(document["measurements"])
    )


def test_what_an_entry_says_of_kernels_is_evaluated_only_where_torchs_own_product_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    entry = read_runbook(ROOT / "runbooks" / "fp8-power-regression.md")
    words = ["--model", folder_of(tmp_path)]
    found = {}
    for product_of in ("fp8_of_torch", "fp8_in_fp32"):
        request.getfixturevalue(product_of)
        steps = [
            result(
                examined(capsys, *words, "--inject", "corrupted-scales")[1],
                "corrupted-scales",
                Phase.REPRODUCE,
            ),
            result(examined(capsys, *words)[1], "layers-again", Phase.VERIFY),
            result(swept(tmp_path, product_of, "--modes", "bf16", "fp8")[1], "corrupted-sweep", Phase.VERIFY),
        ]
        machine = evidence_samples.machine()
        verdicts = {one.id: one.verdict for one in judge_expectations(entry, steps, machine)}
        claims = {name: state for name, (state, _) in judge_claims(entry, steps, machine).items()}
        found[product_of] = verdicts, claims
        assert verdicts["accurate-with-new-scales"] is Verdict.MET
        assert verdicts["every-layer-in-fp8-again"] is Verdict.MET
        assert claims["corrupted-scales-cost-accuracy"] is ClaimState.CONFIRMED
    assert found["fp8_of_torch"][0]["fp8-share-restored"] is Verdict.MET
    assert found["fp8_in_fp32"][0]["fp8-share-restored"] is Verdict.NOT_EVALUATED
    assert found["fp8_of_torch"][1]["faq-invalid-calibration-falls-back"] is ClaimState.CONTRADICTED
    assert found["fp8_in_fp32"][1]["faq-invalid-calibration-falls-back"] is ClaimState.UNDECIDED


def swept(tmp_path: Path, name: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    output = tmp_path / name
    words = ["--tokens", "32", "--window", "0.02", "--rounds", "2", "--model", folder_of(tmp_path)]
    status = precision_power_sweep.PROBE.main([*words, "--output-json", str(output), *arguments])
    return status, json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("fp8_in_fp32")
def test_a_sweep_gives_fp8_in_fp32_an_accuracy_and_neither_a_speed_nor_a_fallback(tmp_path: Path) -> None:
    status, document = swept(tmp_path, "sweep.json", "--modes", "fp16", "bf16", "fp8")
    assert (status, document["fallback_reason"]) == (0, None)
    assert {one["name"] for one in document["measurements"] if one["labels"].get("mode") == "fp8"} == {
        "signal_to_noise"
    }
    assert of(document, "signal_to_noise")["fp8"]["value"] > 10
    assert set(of(document, "speed_ratio")) == {"fp16"}
    assert document["effective"]["precision"] == {"fp16": "fp16", "bf16": "bf16", "fp8": IN_FP32}
    assert document["details"]["not_timed"]["fp8"].startswith(f"{IN_FP32}: torch._scaled_mm fails")


@pytest.mark.usefixtures("fp8_in_fp32")
def test_two_sweeps_in_which_no_mode_was_timed_are_not_compared_and_no_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name in ("before.json", "after.json"):
        status, document = swept(tmp_path, name, "--modes", "fp8")
        assert (status, document["effective"]["windows"]) == (0, 0)
        paths.append(str(tmp_path / name))
    assert power_efficiency_analyzer.PROBE.main(paths) == NOT_APPLICABLE
    assert "fp8 multiplied FP8 values in fp32" in capsys.readouterr().err


PROGRAM = """
import subprocess, sys, torch
from torch.profiler import profile
a = torch.linspace(-1, 1, 16 * 32).reshape(16, 32).to(torch.float8_e4m3fn)
one = torch.ones(())
def product(x): return torch._scaled_mm(x, a.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)
with profile() as seen: found = product(a)
[event] = [one for one in seen.events() if one.name == "aten::_scaled_mm"]
print(event.cpu_time_total / 1e6, float((found - a.float() @ a.float().t()).abs().max()))
if len(sys.argv) < 2: subprocess.run([sys.executable, __file__, "child"], check=True)
"""


@pytest.mark.system
def test_the_stand_in_for_a_slow_product_slows_every_process_and_changes_no_number(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program],
        env=os.environ | {"PYTHONPATH": SLOW},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert len(found) == 2
    for seconds, off in found:
        assert seconds >= 16 * 32 * 16 / 12e6
        assert off < 1e-4


def run_slow(tmp_path: Path, how: str, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), SLOW]), "SLOW_FP8": how},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("how", "said"), [("", "takes"), ("refused", "fails on this CPU")])
def test_a_trace_where_the_product_is_slow_or_refused_names_the_operation_by_what_ran(
    tmp_path: Path, how: str, said: str
) -> None:
    words = ("runner.probes.capture_fp8_flexattention_traces", "--preset", "tiny", "--output-dir", "traces")
    status, document = run_slow(tmp_path, how, *words)
    assert status == 0
    assert document["effective"]["product"].startswith(f"{IN_FP32}: torch._scaled_mm {said}")
    operations = {one["labels"]["operation"] for one in document["measurements"]}
    assert operations == {"e4m3_matmul_in_fp32", "flex_attention"}
    [noise] = [
        one["value"]
        for one in document["measurements"]
        if one["name"] == "signal_to_noise" and one["labels"]["operation"] == "e4m3_matmul_in_fp32"
    ]
    assert noise > 20


LAYERS = "runner.probes.fp8_transformer_engine"
SWEEP = ("runner.probes.precision_power_sweep", "--modes", "fp16", "bf16", "fp8", "fp8_te")


@pytest.mark.system
@pytest.mark.parametrize("how", ["", "refused"])
def test_every_step_of_the_entry_ends_with_the_model_of_a_cpu_where_the_product_is_slow_or_refused(
    tmp_path: Path, how: str
) -> None:
    assert run_slow(tmp_path, how, LAYERS)[0] == 0
    assert run_slow(tmp_path, how, LAYERS, "--inject", "corrupted-scales")[0] == 1
    assert run_slow(tmp_path, how, LAYERS, "--inject", "bf16-layers")[0] == 1
    assert run_slow(tmp_path, how, LAYERS, "--recalibrate", "--output-json", "scales.json")[0] == 0
    for scales, name in (((), "before.json"), (("--scales", "scales.json"), "after.json")):
        status, document = run_slow(tmp_path, how, *SWEEP, *scales, "--output-json", name)
        assert (status, document["fallback_reason"]) == (0, None)
        assert document["effective"]["precision"]["fp8"] == IN_FP32
    analyzer = "runner.probes.power_efficiency_analyzer"
    _, document = run_slow(tmp_path, how, analyzer, "before.json", "after.json", "--tolerance", "0.9")
    assert set(document["details"]["verdicts"]) == {"fp16"}
    assert "fp8" in document["details"]["not_compared"]
