import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import RunbookError
from runner.kit.compile_guard.command import Watched
from runner.kit.compile_guard.spec import builder_name
from runner.kit.compile_guard.watch import OUTPUT
from runner.kit.growth_law import exponential
from runner.kit.repro import growth_child, growth_curve
from runner.kit.repro.growing_models import chain, one_sum
from runner.kit.repro.growth_child import COMPILES, CompileSeries, finished
from runner.kit.repro.growth_curve import CurvePoint, curve_growth
from runner.probes.compile_growth import PROBE

main = PROBE.main


def a_point(turns: int, cpu_s: float | None, mode: str = "whole", **changes: Any) -> CurvePoint:
    return CurvePoint(mode=mode, grows="turns", grown=turns, size=3 * turns, cpu_s=cpu_s, **changes)


def found(points: list[CurvePoint], *sizes: int) -> Any:
    return growth_curve._findings("operations", points, sizes, tolerance=1e-3)


@given(
    power=st.floats(-2, 6),
    sizes=st.sets(st.integers(1, 1000), min_size=2, max_size=6),
)
def test_the_exponent_of_a_power_law_is_its_power(power: float, sizes: set[int]) -> None:
    law = curve_growth("operations", [a_point(size, 3.0 * size**power) for size in sizes])
    assert law is not None
    assert math.isclose(law.power.slope, power, abs_tol=1e-6)
    if len(sizes) == 2:
        assert law.power.r2 is None, "two points are on any line"


def test_points_that_did_not_end_are_on_no_curve() -> None:
    assert (
        curve_growth("operations", [a_point(1, 1.0), a_point(2, None, late=True, reason="did not end")])
        is None
    )


# CPU seconds in the compiler on a host without GPUs, torch 2.13.0, 2026-11-25, one compile each.
MEASURED = {3: 2.187202, 5: 2.344888, 7: 3.9703, 8: 7.678539, 9: 19.572004}


def test_a_constant_and_an_exponential_is_called_one_and_its_exponent_has_the_quality_of_its_fit() -> None:
    one = found([a_point(*point) for point in MEASURED.items()], *MEASURED)
    values = {(m.name, m.labels.get("law")): m.value for m in one.measurements if "curve" in m.labels}
    assert values["growth_per_step", None] == pytest.approx(3.1, abs=0.1)
    assert values["growth_fit_r2", "exponential"] > 0.999
    assert values["growth_fit_r2", "power"] < 0.75
    assert one.reason == (
        "compile time grows faster than linearly, whole: × 3.1 per turn above a constant of 2.2 s"
    )


@pytest.mark.parametrize(
    ("factor", "constant"), [(1.3, 0.0), (2.0, 0.0), (2.0, 2.0), (10.0, 2.0), (1.3, 0.01)]
)
def test_the_factor_of_an_exponential_is_found_whatever_its_constant(factor: float, constant: float) -> None:
    law = exponential((2, 4, 5, 7, 9), [constant + 0.01 * factor**size for size in (2, 4, 5, 7, 9)])
    assert law is not None
    assert law.factor == pytest.approx(factor, rel=1e-3)
    assert law.constant == pytest.approx(constant, abs=1e-3)
    assert law.better


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_a_power_law_with_a_constant_is_not_called_an_exponential(power: float) -> None:
    law = exponential((1, 2, 4, 8, 16), [2 + 0.1 * size**power for size in (1, 2, 4, 8, 16)])
    assert law is not None
    assert not law.better


@pytest.mark.parametrize(
    "times", [(2.27, 2.22, 2.25, 2.2, 2.2), (2.0, 2.0, 2.0, 2.0, 60.0)], ids=["flat", "one late rise"]
)
def test_times_that_no_law_explains_are_called_no_exponential(times: tuple[float, ...]) -> None:
    law = exponential((3, 5, 7, 8, 9), times)
    assert law is None or not law.better


def test_three_sizes_name_no_law() -> None:
    assert exponential((3, 5, 7), (2.2, 2.3, 4.0)) is None


def test_growth_in_every_mode_is_the_symptom_and_one_flat_mode_is_the_way_out() -> None:
    steep = [a_point(5, 2.0), a_point(9, 20.0)]
    alone = found(steep, 5, 9)
    assert (alone.status, alone.reason) == (
        "symptom",
        "compile time grows faster than linearly, whole: operations^3.92",
    )
    flat = [a_point(5, 2.0, "per-block"), a_point(9, 2.1, "per-block")]
    assert found([*steep, *flat], 5, 9).status == "ok"


def test_a_size_without_memory_for_it_is_no_point_and_said_to_be() -> None:
    one = found([a_point(1, 2.0), a_point(2, None, memory=True, reason="out of memory")], 1, 2)
    assert [m.labels["turns"] for m in one.measurements if m.name == "compile_finished"] == [1]
    assert (one.requested["sizes"], one.effective["sizes"]) == ([1, 2], [1])


def test_a_size_that_was_not_begun_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    one = found([a_point(1, 2.0), a_point(2, 3.0)], 1, 2, 3)
    assert (one.effective["sizes"], one.details["left_out"]) == ([1, 2], [3])
    assert "sizes left out because of the time limit: 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cpu_s": None, "reason": "BackendError: no"}, "could not measure 5 turns, whole: BackendError: no"),
        ({"cpu_s": 2.0, "difference": 0.5}, "its output differs from eager's by 0.5, tolerance 0.001"),
        ({"cpu_s": 2.0, "difference": None}, "its output differs from eager's by None"),
    ],
)
def test_a_compile_that_fails_or_answers_wrongly_is_no_measurement(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RunbookError, match=said):
        found([a_point(5, **changes)], 5)


def test_a_width_that_no_head_divides_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--curve", "parameters", "--sizes", "100"]) == 2
    assert "--sizes 100: must be a multiple of 64" in capsys.readouterr().err


def test_the_last_line_of_a_child_that_was_ended_may_be_half(tmp_path: Path) -> None:
    assert finished(tmp_path) == []
    (tmp_path / COMPILES).write_text('{"a": 1}\n{"b": ')
    assert finished(tmp_path) == [{"a": 1}]


def test_a_child_begins_no_size_that_would_end_too_late_beyond_the_smallest_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[str, object]] = []

    def compile_(builder: str, arguments: dict[str, object], *_: object) -> dict[str, object]:
        compiled.append((builder, arguments["turns"]))
        return {}

    monkeypatch.setattr(growth_child, "_warm_torch", lambda: None)
    monkeypatch.setattr(growth_child, "_compile_first", lambda *_: {})
    monkeypatch.setattr(growth_child, "_compile", compile_)
    series = CompileSeries("chain", "sum", "cpu", "turns", (1, 2, 3, 4), ("whole",), -1.0, 2, (1.0,) * 4)
    growth_child._compile_all(series, tmp_path / "caches", lambda: None, lambda **_: None)
    assert compiled == [("chain", 1), ("chain", 2)]


@pytest.mark.system
def test_each_size_is_compiled_for_real_in_each_mode_and_none_comes_from_the_cache_of_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RUNBOOK_RESULT", raising=False)
    words = ["--curve", "operations", "--sizes", "1", "2", "--modes", "whole", "per-block"]
    assert main(words) in {0, 1}
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    times = {
        (one["labels"]["mode"], one["labels"]["turns"]): one["value"]
        for one in document["measurements"]
        if one["name"] == "compiler_cpu_time"
    }
    assert set(times) == {("whole", 1), ("whole", 2), ("per-block", 1), ("per-block", 2)}
    assert min(times.values()) > 0
    # A graph from the cache is there in a fraction of the time of the same graph that is compiled.
    assert times["per-block", 2] > times["per-block", 1] / 3
    assert document["effective"]["sizes"] == [1, 2]


def a_watched(folder: Path, *, ended: bool, status: int | None) -> Watched:
    return Watched(
        command=(),
        ended=ended,
        status=status,
        verdict=None if ended else "slow",
        where=None,
        wall_s=9.0,
        cpu_share=None,
        samples=(),
        left=0,
        folder=folder,
    )


SERIES = CompileSeries(
    builder_name(chain),
    builder_name(one_sum),
    "cpu",
    "turns",
    (1, 2, 3),
    ("whole", "per-block"),
    900.0,
    2,
    (1.0,) * 3,
)
DONE = (
    {"compile_s": 3.0, "compiler_cpu_s": 3.0, "difference": 0.0},
    {"size": 1, "mode": "whole", "compile_s": 1.5, "compiler_cpu_s": 1.0, "difference": 0.0},
)


@pytest.mark.parametrize(
    ("ended", "status", "late", "reason"),
    [
        (False, None, True, "did not finish by its deadline, slow: it still made progress"),
        (True, -11, False, "the child exited with status -11; last output: Segmentation fault"),
    ],
)
def test_what_a_child_that_was_ended_or_that_crashed_had_done_is_kept(
    status: int | None, reason: str, tmp_path: Path, *, ended: bool, late: bool
) -> None:
    (tmp_path / COMPILES).write_text("".join(json.dumps(line) + "\n" for line in DONE))
    (tmp_path / OUTPUT).write_text("Segmentation fault\n")
    points = growth_curve._points("operations", SERIES, a_watched(tmp_path, ended=ended, status=status))
    assert [(point.grown, point.mode, point.late) for point in points] == [
        (1, "whole", False),
        (1, "per-block", late),
    ]
    assert (points[0].cpu_s, points[1].cpu_s, points[1].reason) == (1.0, None, reason)


def test_a_child_that_left_sizes_out_has_no_unfinished_point(tmp_path: Path) -> None:
    (tmp_path / COMPILES).write_text("".join(json.dumps(line) + "\n" for line in DONE))
    points = growth_curve._points("operations", SERIES, a_watched(tmp_path, ended=True, status=0))
    assert [point.grown for point in points] == [1]


@pytest.mark.parametrize("lines", ["", '{"error": "CppCompileError: no", "memory": false}\n'])
def test_where_not_even_a_sum_compiles_nothing_is_measured(lines: str, tmp_path: Path) -> None:
    (tmp_path / COMPILES).write_text(lines)
    with pytest.raises(RunbookError, match=r"torch.compile fails even for x \+ 1: "):
        growth_curve._points("operations", SERIES, a_watched(tmp_path, ended=True, status=1))
