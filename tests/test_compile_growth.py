import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.probes import compile_growth
from runner.probes.compile_growth import Point, exponent, main
from runner.probes.compile_guard import Attempt
from runner.probes.compile_guard.spec import Mode


def a_point(size: int, cpu_s: float, mode: str = "whole", **changes: Any) -> Point:
    attempt = Attempt(
        mode=Mode(mode),
        outcome="finished",
        reason=None,
        verdict=None,
        start_s=3.0,
        compile_s=cpu_s,
        compile_cpu_s=cpu_s + 1,
        cpu_share=1.0,
        wall_s=cpu_s,
        peak_rss_bytes=2**28,
        cache_bytes=1000,
        ended=0,
        left=0,
        samples=(),
        facts={"compiler_cpu_s": cpu_s},
        folder=Path("none"),
    )
    return Point(mode, size, {"mode": mode, "turns": size}, replace(attempt, **changes))


@given(power=st.floats(-2, 6), first=st.integers(1, 50), factor=st.integers(2, 50))
def test_the_exponent_of_a_power_law_is_its_power(power: float, first: int, factor: int) -> None:
    points = [a_point(size, 3.0 * size**power) for size in (first, first * factor)]
    found = exponent(points)
    assert found is not None
    assert math.isclose(found, power, abs_tol=1e-9)


def test_points_that_did_not_end_are_on_no_curve() -> None:
    assert exponent([a_point(1, 1.0), a_point(2, 9.0, outcome="deadline")]) is None


def test_growth_in_every_mode_is_the_symptom_and_one_flat_mode_is_the_way_out() -> None:
    steep = [a_point(5, 2.0), a_point(9, 20.0)]
    found = compile_growth._findings("operations", steep)
    assert (found.status, found.reason) == (
        "symptom",
        "compile time grows faster than the graph, whole: operations^3.92",
    )
    flat = [a_point(5, 2.0, "per-block"), a_point(9, 2.1, "per-block")]
    assert compile_growth._findings("operations", [*steep, *flat]).status == "ok"


def test_a_size_without_memory_for_it_is_left_out_and_said_to_be() -> None:
    found = compile_growth._findings("parameters", [a_point(1, 2.0), a_point(2, 2.0, outcome="memory")])
    assert [one.labels["turns"] for one in found.measurements if one.name == "compile_finished"] == [1]
    assert (found.requested["sizes"], found.effective["sizes"]) == ([1, 2], [1])


def test_a_width_that_no_head_divides_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--curve", "parameters", "--sizes", "100"]) == 2
    assert "--sizes 100: sizes here are multiples of 64" in capsys.readouterr().err
