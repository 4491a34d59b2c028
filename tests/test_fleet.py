"""Many nodes of one campaign: what is called an outlier, by how much, and what a second run says."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.stats import OUTLYING_SHARE, fence
from runner.entry.model import Phase
from runner.history.campaigns import Distribution, distributions, sentence, suspects
from runner.record.model import Record, StepStatus
from tests.evidence_samples import machine, measurement, record, step

BEGAN = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)


def a_run(number: int, value: float, *, again: bool = False, metric: str = "bus_bandwidth") -> Record:
    unit = {"bus_bandwidth": "B/s", "collective_time": "s", "nccl_settings": "1"}[metric]
    measured = measurement(value, name=metric, op="all_reduce").model_copy(update={"unit": unit})
    return record(
        step("busbw", measured, probe="collectives", started_at=BEGAN),
        run_id=f"{'b' if again else 'a'}{number:06}",
        node_alias=f"node-{number:06}",
        started_at=BEGAN + timedelta(hours=again),
        campaign="c",
    )


def only(records: list[Record]) -> Distribution:
    (found,) = distributions(records)
    return found


def sound(count: int, value: float = 100e9) -> list[Record]:
    return [a_run(number, value * (1 + (number % 5 - 2) / 500)) for number in range(count)]


def test_three_slow_nodes_of_128_are_named_with_how_far_they_are_off() -> None:
    records = sound(125) + [a_run(900 + number, 88e9) for number in range(3)]
    said = sentence(only(records))
    assert said == ("3 of 128 nodes are 12% below the median (node-000900, node-000901, node-000902)")


def test_sound_nodes_are_no_outliers() -> None:
    found = only(sound(128))
    assert (found.outliers, sentence(found), suspects([found])) == ((), None, {})


def test_nodes_that_agree_to_the_last_digit_make_no_outlier_of_a_small_difference() -> None:
    exact = [a_run(number, 100e9) for number in range(20)]
    assert only([*exact, a_run(99, 97e9)]).outliers == ()
    assert [one.alias for one in only([*exact, a_run(99, 94e9)]).outliers] == ["node-000099"]


def test_half_of_the_nodes_less_one_may_be_sick_and_the_sound_ones_are_not_blamed() -> None:
    found = only(sound(11) + [a_run(900 + number, 20e9 + number * 1e9) for number in range(9)])
    assert {one.alias for one in found.outliers} <= {f"node-{900 + number:06}" for number in range(9)}


def test_a_node_that_is_better_than_the_rest_stands_out_and_is_no_suspect() -> None:
    found = only([*sound(20), a_run(99, 130e9)])
    assert [one.alias for one in found.outliers] == ["node-000099"]
    assert found.suspects == ()


def test_of_a_time_the_longer_one_is_suspect_and_of_a_neutral_metric_either() -> None:
    slow = [a_run(n, 1.0, metric="collective_time") for n in range(9)]
    assert [
        one.alias
        for one in only(
            [*slow, a_run(98, 2.0, metric="collective_time"), a_run(99, 0.5, metric="collective_time")]
        ).suspects
    ] == ["node-000098"]
    same = [a_run(n, 4, metric="nccl_settings") for n in range(9)]
    odd = only([*same, a_run(98, 9, metric="nccl_settings"), a_run(99, 0, metric="nccl_settings")])
    assert len(odd.suspects) == 2


def test_a_second_run_confirms_or_clears_a_suspect() -> None:
    records = [*sound(20), a_run(98, 70e9), a_run(99, 60e9)]
    assert suspects(distributions(records)) == {"node-000098": ("nvlink",), "node-000099": ("nvlink",)}
    records += [a_run(98, 71e9, again=True), a_run(99, 100e9, again=True)]
    found = only(records)
    assert {one.alias: one.confirmed for one in found.outliers} == {"node-000098": True, "node-000099": False}
    assert (sentence(found) or "").endswith("confirmed by a second run: 1 of 2")
    assert suspects([found]) == {}
    # The second run confirms; it does not move the distribution that it is held against.
    assert len(found.values) == 22
    assert found.values["node-000099"] == 60e9


def test_a_node_that_is_far_above_the_second_time_was_not_confirmed_slow() -> None:
    found = only([*sound(20), a_run(99, 60e9), a_run(99, 160e9, again=True)])
    assert [one.confirmed for one in found.outliers] == [False]


def test_of_fewer_than_five_nodes_nobody_stands_out() -> None:
    found = only([*sound(3), a_run(99, 1e9)])
    assert (found.fence, found.outliers) == (None, ())


def test_classes_presets_and_joint_runs_are_never_mixed() -> None:
    b200 = machine("NVIDIA B200")
    other = [
        one.model_copy(update={"machine": b200, "node_alias": f"g-{i}"}) for i, one in enumerate(sound(6))
    ]
    joint = a_run(77, 1e9).model_copy(update={"members": ("node-1", "node-2")})
    found = distributions([*sound(6), *other, joint])
    assert [(one.machine_class, len(one.values)) for one in found] == [
        ("1xB200-180GB", 6),
        ("cpu-example-x86_64-2c", 6),
    ]


def test_numbers_of_steps_that_did_not_finish_do_not_count() -> None:
    broken = record(
        step("busbw", measurement(1.0), phase=Phase.DIAGNOSE, status=StepStatus.ERROR), node_alias="node-x"
    )
    assert distributions([broken, broken.model_copy(update={"node_alias": "node-y", "run_id": "z"})]) == ()


@given(st.lists(st.floats(1, 1e12), min_size=5, max_size=60), st.floats(0.001, 1000))
def test_the_fence_scales_with_its_values_and_holds_at_least_half_of_them(
    values: list[float], factor: float
) -> None:
    around, scaled = fence(values), fence([value * factor for value in values])
    assert around
    assert scaled
    assert scaled.low == pytest.approx(around.low * factor, rel=1e-6, abs=1e-6 * around.median * factor)
    assert sum(around.low <= value <= around.high for value in values) * 2 >= len(values)
    assert around.high - around.median >= OUTLYING_SHARE * around.median * 0.999


@given(st.lists(st.floats(99, 101), min_size=9, max_size=60), st.floats(0, 50))
def test_one_value_far_off_never_hides_itself(values: list[float], odd: float) -> None:
    around = fence([*values, odd])
    assert around
    assert odd < around.low


def test_around_a_median_of_zero_a_distance_is_said_in_the_metrics_unit() -> None:
    same = [a_run(n, 0, metric="nccl_settings") for n in range(9)]
    odd = only([*same, a_run(98, 3, metric="nccl_settings"), a_run(99, -2, metric="nccl_settings")])
    assert sentence(odd) == (
        "1 of 11 nodes is 2 below the median of 0 (node-000099); "
        "1 of 11 nodes is 3 above the median of 0 (node-000098)"
    )


def test_where_longer_is_worse_only_what_is_above_a_median_of_zero_is_suspect() -> None:
    times = [a_run(n, 0, metric="collective_time") for n in range(9)]
    found = only(
        [*times, a_run(98, 1e-3, metric="collective_time"), a_run(99, -1e-3, metric="collective_time")]
    )
    assert [one.alias for one in found.suspects] == ["node-000098"]
    assert sentence(found) == "1 of 11 nodes is 1.00 ms above the median of 0 s (node-000098)"


def test_around_a_negative_median_the_larger_value_is_above_it() -> None:
    cold = [a_run(n, -100, metric="nccl_settings") for n in range(9)]
    found = only([*cold, a_run(98, -80, metric="nccl_settings"), a_run(99, -120, metric="nccl_settings")])
    assert sentence(found) == (
        "1 of 11 nodes is 20% below the median (node-000099); 1 of 11 nodes is 20% above the median (node-000098)"
    )


@given(st.lists(st.floats(-1e100, 1e100), min_size=5, max_size=12))
def test_whatever_was_measured_no_distance_is_infinite(values: list[float]) -> None:
    said = sentence(only([a_run(n, value, metric="nccl_settings") for n, value in enumerate(values)])) or ""
    assert not {"inf", "nan", "inf%", "nan%"} & set(said.split())
    shares = [float(word.rstrip("%")) for word in said.split() if word.endswith("%")]
    assert all(share <= 1000 for share in shares)
