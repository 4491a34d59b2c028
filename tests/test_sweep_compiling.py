"""The compile mode of each precision of a sweep: by default, within the step's time, and where one cannot compile."""

import math
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.kit.budget import Budget
from runner.kit.compile_guard.guarded import Guarded
from runner.kit.compile_options import Mode
from runner.kit.precision import building, compiled
from runner.kit.precision.choice import Prefill
from runner.kit.precision.compiled import find_rungs, tolerance, within_time
from runner.kit.precision.measuring import seconds_after_compiling
from runner.kit.probe import NOT_APPLICABLE
from runner.probes import fp8_transformer_engine
from runner.sizing.models import model_shape
from tests.test_precision import folder_of
from tests.test_precision_power_sweep import of, sweep

pytest_plugins = ("tests.fp8_products",)
# Inductor imports a module of torch's own that still uses it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

GPU = Prefill(model_shape("8b"), "cuda", 1, 4096)


def answering(effective: Mode | None, asked: dict[str, Any]) -> Callable[..., Guarded]:
    def safe_compile(build: object, arguments: dict[str, Any], **named: Any) -> Guarded:
        asked[arguments["mode"]] = named
        return Guarded(named["mode"], effective, None if effective else "raised: no", ())

    return safe_compile


def test_a_gpu_compiles_per_block_by_default_and_runs_eager_where_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(compiled, "safe_compile", answering(Mode.PER_BLOCK, asked))
    found = find_rungs(None, ["bf16", "fp8"], GPU, None, 240.0, 75.0)
    assert (found.rung("bf16"), found.rung("fp8"), found.fallback_reason) == ("per-block", "per-block", None)
    assert {named["mode"] for named in asked.values()} == {"per-block"}
    assert all(44 < named["deadline_s"] <= 45 for named in asked.values())
    assert (asked["bf16"]["tolerance"], asked["fp8"]["tolerance"]) == (0.05, 0.25)
    monkeypatch.setattr(compiled, "safe_compile", answering(None, asked))
    found = find_rungs(None, ["bf16"], GPU, None, 240.0)
    assert (found.rung("bf16"), found.why_not("bf16")) == ("eager", None)
    assert (found.fallback_reason, found.fallback_asked) == ("bf16: raised: no", True)
    found = find_rungs("per-block", ["bf16"], GPU, None, 240.0)
    assert (found.rung("bf16"), found.why_not("bf16")) == (None, "raised: no")
    assert (found.fallback_reason, found.fallback_asked) == (None, False)


def test_a_gpu_without_time_to_compile_measures_eager_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(compiled, "safe_compile", answering(Mode.WHOLE, asked))
    found = find_rungs(None, ["bf16", "fp8"], GPU, None, 240.0, 32.0)
    assert (asked, found.rung("fp8"), found.fallback_asked) == ({}, "eager", True)
    assert "bf16: not compiled: 32 s are left for it, and it takes about 45 s" in str(found.fallback_reason)
    # A mode that the caller named is tried in whatever time there is, each in its share.
    found = find_rungs("whole", ["bf16", "fp8"], GPU, None, 240.0, 32.0)
    assert 15 < asked["bf16"]["deadline_s"] <= 16
    assert found.rung("fp8") == "whole"


def test_a_whole_model_of_32_blocks_may_differ_more_from_eager_than_one_block() -> None:
    assert [tolerance("bf16", blocks) for blocks in (1, 8, 32)] == [0.05, 0.05, 0.2]
    assert [tolerance("fp8", blocks) for blocks in (1, 32, 80)] == [0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("recipe", "rung", "kept"),
    [
        ("DelayedScaling", "eager", "fp8_te: not compiled: Transformer Engine refuses delayed scaling"),
        ("MXFP8BlockScaling", "per-block", None),
    ],
)
def test_delayed_scaling_goes_to_eager_at_once_and_other_recipes_are_tried(
    monkeypatch: pytest.MonkeyPatch, recipe: str, rung: str, kept: str | None
) -> None:
    asked: dict[str, Any] = {}
    engine = types.ModuleType("transformer_engine.pytorch.quantization")
    engine.get_default_fp8_recipe = type(recipe, (), {})  # type: ignore[attr-defined]
    for name in ("transformer_engine", "transformer_engine.pytorch"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, engine.__name__, engine)
    monkeypatch.setattr(compiled, "safe_compile", answering(Mode.PER_BLOCK, asked))
    for ladder in (None, "smart"):
        found = find_rungs(ladder, ["bf16", "fp8_te"], GPU, None, 240.0)
        assert (found.rung("bf16"), found.rung("fp8_te")) == ("per-block", rung)
        assert str(found.fallback_reason).startswith(str(kept))
    found = find_rungs("whole", ["fp8_te"], GPU, None, 240.0)
    assert (found.why_not("fp8_te") is None) == (kept is None)


def test_without_a_word_a_cpu_runs_eager_and_compiles_nothing() -> None:
    found = find_rungs(None, ["bf16", "fp8"], Prefill(model_shape("tiny"), "cpu", 1, 8), None, 1.0)
    assert (found.requested, found.guarded, found.rung("fp8")) == ("eager", {}, "eager")
    assert (found.fallback_reason, found.fallback_asked) == (None, False)


@pytest.mark.system
def test_a_compile_mode_goes_through_the_guard_mode_by_mode(tmp_path: Path) -> None:
    status, document = sweep(tmp_path, "--modes", "bf16", "fp8", "--compile-mode", "per-block")
    assert status == 0
    assert document["effective"]["compile_mode"] == {"bf16": "per-block", "fp8": "per-block"}
    assert of(document, "signal_to_noise")["fp8"]["value"] > 10
    assert document["fallback_reason"] is None


@pytest.mark.system
def test_calibrated_scales_compile_per_block_although_the_guards_models_have_no_values(
    tmp_path: Path,
) -> None:
    scales = tmp_path / "scales.json"
    words = ["--model", folder_of(tmp_path), "--tokens", "32", "--recalibrate", "--output-json", str(scales)]
    assert fp8_transformer_engine.PROBE.main(words) == 0
    status, document = sweep(
        tmp_path, "--modes", "fp8", "--compile-mode", "per-block", "--scales", str(scales)
    )
    assert (status, document["effective"]["compile_mode"]) == (0, {"fp8": "per-block"})
    assert document["effective"]["scales"] == {"fp8": "static, max"}


@pytest.mark.system
def test_a_mode_whose_compile_outlasts_its_deadline_is_left_out_with_the_reason(tmp_path: Path) -> None:
    status, document = sweep(
        tmp_path, "--modes", "bf16", "--compile-mode", "per-block", "--compile-deadline", "0.5"
    )
    assert (status, document["status"]) == (NOT_APPLICABLE, "not_applicable")
    assert "bf16: per-block:" in document["reason"]


@pytest.mark.parametrize(("seconds", "modes"), [(95.0, ["bf16", "fp8"]), (math.inf, ["fp16", "bf16", "fp8"])])
def test_a_sweep_that_leaves_fp16_out_says_why(
    seconds: float, modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(compiled, "safe_compile", answering(Mode.PER_BLOCK, asked))
    for name in ("unavailable", "fp32_reference", "sample_tokens", "_add"):
        monkeypatch.setattr(building, name, lambda *_, **__: None)
    wanted = building.Asked(("fp16", "bf16", "fp8"), None, 240.0, None)
    swept, _ = building.build_modes(wanted, GPU, None, Budget(time.monotonic() + seconds))
    assert sorted(asked) == sorted(modes)
    assert ("fp16" in swept.unavailable) == ("fp16" not in modes)


def test_fp16_gives_way_where_only_without_it_there_is_time_to_compile_and_in_no_other_case() -> None:
    modes = ("fp16", "bf16", "fp8")

    def left(seconds: float) -> Callable[[int], float]:
        return lambda count: seconds - seconds_after_compiling(count, "cuda")

    enough_for = {count: 45.0 + seconds_after_compiling(count, "cuda") for count in (2, 3)}
    assert within_time(modes, left(enough_for[3])) == modes
    assert within_time(modes, left(enough_for[3] - 1)) == ("bf16", "fp8")
    assert within_time(modes, left(enough_for[2])) == ("bf16", "fp8")
    assert within_time(modes, left(enough_for[2] - 1)) == modes, "all in eager"
    assert within_time(("fp16",), left(0.0)) == ("fp16",)
