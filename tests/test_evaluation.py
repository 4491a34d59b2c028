import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.sequential import repeated_interval
from runner.entry.model import Condition, Hardware
from runner.hardware.boards import BOARDS, Board, board_of
from runner.hardware.gpus import Gpu
from runner.hardware.machine import joint_class, machine_class
from runner.hardware.processor import Processor
from runner.record.evaluation import evaluate, fits, fits_class
from runner.record.model import StepStatus, Verdict
from tests.evidence_samples import B200, machine, measurement, step

CPU = machine()
FIVE = (29e9, 30e9, 31e9, 30e9, 30e9)


def bound(**fields: Any) -> Condition:
    return Condition.model_validate({"metric": "busbw.bus_bandwidth"} | fields)


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"min": 20, "unit": "GB/s"}, Verdict.MET),
        ({"min": 40, "unit": "GB/s"}, Verdict.MISSED),
        ({"min": 30.5, "unit": "GB/s"}, Verdict.INCONCLUSIVE),
        ({"max": 40, "unit": "GB/s"}, Verdict.MET),
        ({"max": 20, "unit": "GB/s"}, Verdict.MISSED),
        ({"min": 20, "max": 40, "unit": "GB/s"}, Verdict.MET),
        ({"min": 20, "max": 25, "unit": "GB/s"}, Verdict.MISSED),
        ({"min": 20, "max": 29.5, "unit": "GB/s"}, Verdict.INCONCLUSIVE),
        ({"min": 2e10}, Verdict.MET),
    ],
)
def test_the_interval_of_the_samples_decides(fields: dict[str, Any], verdict: Verdict) -> None:
    samples = (28e9, 29e9, 30e9, 31e9, 32e9)
    found = evaluate(bound(**fields), [step("busbw", measurement(30e9, *samples))], CPU)
    assert found.verdict is verdict
    assert found.value == 30e9
    assert found.unit == "B/s"
    assert found.interval is not None


def test_samples_that_all_equal_the_bound_meet_it() -> None:
    steps = [step("busbw", measurement(0, 0, 0, 0, 0, 0))]
    assert evaluate(bound(max=0), steps, CPU).verdict is Verdict.MET
    assert evaluate(bound(min=0), steps, CPU).verdict is Verdict.MET


def test_a_value_without_samples_decides_as_a_point() -> None:
    found = evaluate(bound(min=30, unit="GB/s"), [step("busbw", measurement(30e9))], CPU)
    assert (found.verdict, found.interval) == (Verdict.MET, None)


def test_a_percentile_is_not_judged_by_the_interval_of_the_median() -> None:
    p95 = measurement(40e9, *FIVE).model_copy(update={"statistic": "p95"})
    assert evaluate(bound(min=39, unit="GB/s"), [step("busbw", p95)], CPU).verdict is Verdict.MET


def test_samples_that_were_stopped_early_are_judged_by_the_rule_that_stopped_them() -> None:
    ratios = [0.99, 1.01, 1.02, 0.98, 1.0]
    stopped = measurement(1.0, *ratios).model_copy(update={"statistic": "geometric mean"})
    steps = [step("busbw", stopped)]
    assert evaluate(bound(min=0.95), steps, CPU).interval == repeated_interval(ratios)
    assert evaluate(bound(min=0.95), steps, CPU).verdict is Verdict.MET
    # The interval for a number of samples fixed beforehand would call this met.
    assert evaluate(bound(min=0.97), steps, CPU).verdict is Verdict.INCONCLUSIVE
    found = evaluate(bound(min=0.5, over="busbw.bus_bandwidth"), steps, CPU)
    assert found.verdict is Verdict.NOT_EVALUATED
    assert "stopped early" in (found.note or "")


@pytest.mark.parametrize(
    "samples", [(1.0,), (1.0, 1.0, 1.0), (1.0, 1.0, 0.0, 1.0, 1.0), (1.0, -1.0, 1.0, 1.0)]
)
def test_too_few_or_impossible_ratios_decide_nothing(samples: tuple[float, ...]) -> None:
    stopped = measurement(1.0, *samples).model_copy(update={"statistic": "geometric mean"})
    assert evaluate(bound(min=0.95), [step("busbw", stopped)], CPU).verdict is Verdict.INCONCLUSIVE


@given(
    low=st.floats(1e-3, 1e3),
    width=st.floats(0, 10),
    samples=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
)
def test_met_and_missed_need_the_whole_interval_on_one_side(
    low: float, width: float, samples: list[float]
) -> None:
    value = sorted(samples)[len(samples) // 2]
    found = evaluate(bound(min=low, max=low + width), [step("busbw", measurement(value, *samples))], CPU)
    least, most = (found.interval.low, found.interval.high) if found.interval else (value, value)
    if found.verdict is Verdict.MET:
        assert low <= least <= most <= low + width
    elif found.verdict is Verdict.MISSED:
        assert most < low or least > low + width
    else:
        assert found.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("written", ["8GiB", 8 * 2**30, "8589934592"])
def test_sizes_in_labels_are_equal_however_they_are_written(written: object) -> None:
    measurements = (measurement(1.0, bytes=2**20), measurement(2.0, bytes=8 * 2**30))
    found = evaluate(bound(min=0, at={"bytes": written}), [step("busbw", *measurements)], CPU)
    assert found.value == 2.0


def test_a_size_label_of_the_probe_may_be_text_too() -> None:
    found = evaluate(bound(min=0, at={"bytes": 2**20}), [step("busbw", measurement(1.0, bytes="1MiB"))], CPU)
    assert found.value == 1.0


def test_true_is_not_the_number_one() -> None:
    found = evaluate(bound(min=0, at={"cold": True}), [step("busbw", measurement(1.0, cold=1))], CPU)
    assert found.verdict is Verdict.NOT_EVALUATED


def test_several_matches_are_not_evaluated_and_the_note_says_what_differs() -> None:
    measurements = (measurement(1.0, op="all_reduce", bytes=1), measurement(2.0, op="all_reduce", bytes=2))
    found = evaluate(bound(min=0, at={"op": "all_reduce"}), [step("busbw", *measurements)], CPU)
    assert found.verdict is Verdict.NOT_EVALUATED
    assert found.note == "busbw.bus_bandwidth was measured at several bytes; name one under `at`"


def test_a_single_match_may_carry_further_labels() -> None:
    found = evaluate(bound(min=0, at={"bytes": 1}), [step("busbw", measurement(5.0, op="x", bytes=1))], CPU)
    assert found.value == 5.0


def test_labels_exactly_as_written_win_over_those_with_more() -> None:
    measurements = (measurement(1.0, bytes=1), measurement(2.0, bytes=1, arm="clean"))
    assert evaluate(bound(min=0, at={"bytes": 1}), [step("busbw", *measurements)], CPU).value == 1.0


@pytest.mark.parametrize(
    ("steps", "note"),
    [
        ([], "step busbw was not run"),
        ([step("busbw", status=StepStatus.SKIPPED, reason="no GPU")], "step busbw: skipped (no GPU)"),
        ([step("busbw", measurement(1.0), status=StepStatus.TIMEOUT)], "step busbw: timeout"),
        ([step("busbw")], "step busbw measured no bus_bandwidth"),
    ],
)
def test_what_was_not_measured_is_not_evaluated(steps: list[Any], note: str) -> None:
    found = evaluate(bound(min=0), steps, CPU)
    assert (found.verdict, found.value, found.note) == (Verdict.NOT_EVALUATED, None, note)
    assert found.unit == "B/s"


def test_a_unit_of_another_kind_is_not_evaluated() -> None:
    found = evaluate(bound(min=1, unit="s"), [step("busbw", measurement(1.0))], CPU)
    assert found.note == "the bound is in s, busbw.bus_bandwidth in B/s"


def test_a_ratio_is_judged_with_the_interval_of_the_ratio() -> None:
    ratio = bound(metric="b.bus_bandwidth", over="a.bus_bandwidth", min=1.9)
    slow = step("a", measurement(10.0, 10, 10, 10, 10, 10))
    fast = step("b", measurement(20.0, 20, 20, 20, 20, 20))
    found = evaluate(ratio, [slow, fast], CPU)
    assert (found.verdict, found.value, found.unit) == (Verdict.MET, 2.0, "1")
    assert found.interval is not None
    noisy = step("b", measurement(20.0, 10, 15, 20, 25, 30))
    assert evaluate(ratio, [slow, noisy], CPU).verdict is Verdict.INCONCLUSIVE


def test_the_other_arm_of_a_ratio_takes_its_own_labels() -> None:
    arms = (measurement(30.0, arm="new", bytes=1), measurement(10.0, arm="old", bytes=1))
    ratio = bound(
        over="busbw.bus_bandwidth", at={"arm": "new"}, over_at={"arm": "old"}, max=200, min=200, unit="%"
    )
    found = evaluate(ratio, [step("busbw", *arms)], CPU)
    assert (found.value, found.verdict) == (3.0, Verdict.MISSED)


@pytest.mark.parametrize("low", [0.0, 5e-324])
def test_a_ratio_over_nothing_is_not_evaluated(low: float) -> None:
    steps = [step("a", measurement(low)), step("busbw", measurement(1e9))]
    found = evaluate(bound(over="a.bus_bandwidth", min=1), steps, CPU)
    assert found.verdict is Verdict.NOT_EVALUATED
    assert "too close to 0" in str(found.note)


def test_a_ratio_of_different_units_is_not_evaluated() -> None:
    seconds = measurement(1.0).model_copy(update={"unit": "s"})
    steps = [step("a", seconds), step("busbw", measurement(1.0))]
    assert evaluate(bound(over="a.bus_bandwidth", min=1), steps, CPU).verdict is Verdict.NOT_EVALUATED


@pytest.mark.parametrize(
    ("gpu", "count", "names", "expected"),
    [
        ("b200", 8, [B200] * 8, True),
        ("B200", 8, [B200] * 4, False),
        ("B200", None, [B200] * 4, True),
        ("B200", None, [], False),
        ("B200", None, [B200, "NVIDIA H200"], False),
        ("H100", None, ["NVIDIA H100 80GB HBM3"], True),
        ("H100", None, ["NVIDIA H100 PCIe"], False),
        ("A100", None, ["NVIDIA A100-SXM4-80GB"], True),
        ("A10", None, ["NVIDIA A100-SXM4-80GB"], False),
        ("none", None, [], True),
        ("None", None, [B200], False),
    ],
)
def test_a_bound_is_for_the_hardware_it_names(
    gpu: str, count: int | None, names: list[str], *, expected: bool
) -> None:
    assert fits(Hardware(gpu=gpu, count=count), machine(*names)) is expected


def test_a_mig_slice_is_not_the_board() -> None:
    sliced = machine(B200)
    sliced = sliced.model_copy(update={"gpus": (sliced.gpus[0].model_copy(update={"mig": True}),)})
    assert not fits(Hardware(gpu="B200"), sliced)


def test_a_host_whose_gpus_cannot_be_read_is_not_a_host_without_gpus() -> None:
    assert not fits(Hardware(gpu="none"), machine(gpu_error="NVML: driver mismatch"))


def test_on_other_hardware_the_bound_says_nothing() -> None:
    found = evaluate(
        bound(min=800, unit="GB/s", on={"gpu": "B200", "count": 8}), [step("busbw", measurement(1.0))], CPU
    )
    assert (found.verdict, found.note) == (Verdict.NOT_EVALUATED, "meant for 8 B200")


@given(st.floats(-1e100, 1e100), st.floats(-1e100, 1e100))
def test_a_value_is_never_infinite(one: float, other: float) -> None:
    steps = [step("a", measurement(one)), step("busbw", measurement(other))]
    value = evaluate(bound(over="a.bus_bandwidth", min=0), steps, CPU).value
    assert value is None or math.isfinite(value)


@pytest.mark.parametrize(
    ("gpu", "count", "machine_class", "expected"),
    [
        ("B200", None, "8xB200-180GB", True),
        ("B200", 8, "8xB200-180GB", True),
        ("B200", 8, "1xB200-180GB", False),
        ("B200", None, "8xH200-141GB", False),
        ("H100", None, "4xH100-80GB-mig", False),
        ("H100", None, "1xH100-80GB", True),
        ("H100", None, "1xH100-PCIe-80GB", False),
        ("H100", None, "8xH100-NVL-94GB", False),
        ("H200", None, "1xGH200-480GB-96GB", False),
        ("B200", None, "2xB200-180GB+1xH200-141GB", False),
        ("B200", 8, "2-nodes-of-8xB200-180GB", True),
        ("H100-PCIe", None, "1xH100-PCIe-80GB", True),
        ("none", None, "cpu-amd-epyc-x86_64-v4-2c", True),
        ("none", None, "cpu-x86_64-2c", True),
        ("none", None, "8xB200-180GB", False),
        ("B200", None, "cpu-x86_64-2c", False),
        ("none", None, "unreadable-gpu-x86_64-2c", False),
        ("any", None, "8xB200-180GB", True),
        ("any", 8, "2-nodes-of-8xB200-180GB", True),
        ("any", 8, "1xH100-80GB", False),
        ("any", None, "4xH100-80GB-mig", True),
        ("any", 3, "2xB200-180GB+1xH200-141GB", True),
        ("any", None, "cpu-amd-epyc-x86_64-2c", False),
        ("any", None, "unreadable-gpu-x86_64-2c", False),
        ("RTX-4090", None, "2xGeForce-RTX-4090-24GB", True),
    ],
)
def test_a_class_without_a_record_is_matched_by_its_name(
    gpu: str, count: int | None, machine_class: str, expected: bool
) -> None:
    assert fits_class(Hardware(gpu=gpu, count=count), machine_class) is expected
    assert fits_class(None, machine_class)


PRODUCTS = {
    "NVIDIA H100 80GB HBM3": 81_559,
    "NVIDIA H100 PCIe": 81_559,
    "NVIDIA H100 NVL": 95_830,
    "NVIDIA H100": 81_920,
    "NVIDIA H200": 143_771,
    "NVIDIA H200 NVL": 143_771,
    "NVIDIA GH200 480GB": 97_871,
    "NVIDIA B200": 183_359,
    "NVIDIA GB200": 189_471,
    "NVIDIA B300 SXM6 AC": 275_040,
    "NVIDIA A100-SXM4-80GB": 81_920,
    "NVIDIA GeForce RTX 4090": 24_564,
}
WANTED = (
    "none",
    "H100",
    "h200",
    "B200",
    "GB200",
    "GH200",
    "A100",
    "A10",
    "H100 PCIe",
    "H100-NVL",
    "RTX 4090",
    "80GB",
    "-",
    "any",
)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(PRODUCTS)), st.booleans()), max_size=4),
    st.sampled_from(WANTED),
    st.sampled_from([None, 1, 2, 4]),
    st.integers(1, 3),
)
def test_a_bound_fits_a_class_exactly_where_it_fits_every_machine_of_that_class(
    installed: list[tuple[str, bool]], gpu: str, count: int | None, nodes: int
) -> None:
    gpus = tuple(
        Gpu(index=index, name=name, memory_bytes=PRODUCTS[name] * 2**20, mig=mig)
        for index, (name, mig) in enumerate(installed)
    )
    on = Hardware(gpu=gpu, count=count)
    found = machine(gpus=gpus)
    named = machine_class(gpus, None, found.processor)
    assert fits(on, found) == fits_class(on, named)
    assert fits(on, found) == fits_class(on, joint_class(named, nodes))


@pytest.mark.parametrize("product", sorted(PRODUCTS))
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_bound_of_a_known_board_fits_no_other_product(product: str, board: Board) -> None:
    gpus = (Gpu(index=0, name=product, memory_bytes=PRODUCTS[product] * 2**20),)
    expected = board_of(product) == board
    assert fits(Hardware(gpu=board.name), machine(gpus=gpus)) is expected
    named = machine_class(gpus, None, Processor(None, "x86_64", 2))
    assert fits_class(Hardware(gpu=board.name), named) is expected
