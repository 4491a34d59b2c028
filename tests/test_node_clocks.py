"""What holds the clocks of GPUs back: judged from one reading, and from a watch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.node.findings import Action, NodeVerdict
from runner.node.gpu.clocks import judge_clocks
from runner.node.gpu.clocks_reading import ClockFacts, GpuClocks
from runner.node.gpu.group import GpuReading
from tests.node_probe import judge_node
from tests.nvml import EIGHT_B200
from tests.nvml.boards import EIGHT_A100, EIGHT_H100, FOUR_L40S, ONE_H200_VM, TWO_4090

H100_LIMITS = "power_limit 700000\nclocks 345 2619\nmax_clocks 1980 2619\nreasons 1\n"
BUSY = "".join(f"utilisation {gpu} 100\n" for gpu in range(8))
HEALTHY = {
    "eight H100, idle": EIGHT_H100 + H100_LIMITS,
    "eight B200, idle": EIGHT_B200 + "reasons 1\nmargin 0 45\ntemp 0 35 33\n",
    "eight A100": EIGHT_A100 + "power_limit 400000\nclocks 1410 1593\napp_clock 0 1410 1410\n",
    "four L40S": FOUR_L40S + "power_limit 350000\n",
    "two GeForce": TWO_4090 + "power_limit 450000\nmax_clocks 3105 10501\nclocks 2730 10501\n",
    "eight H100, split": EIGHT_H100 + H100_LIMITS + "mig 1\nfail nvmlDeviceGetUtilizationRates 3\n",
    "a virtual machine": ONE_H200_VM + "power_limit 700000\n",
    "a board that counts no times": EIGHT_H100 + H100_LIMITS + "violations 0\n",
    "dense work at the power limit": EIGHT_B200
    + BUSY
    + "reasons 4\nclocks 1580 3996\nmax_clocks 1965 3996\n"
    + "".join(f"power {gpu} 990000\nviolation {gpu} 0 950000000\n" for gpu in range(8)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_board_has_no_finding_in_one_reading(name: str, tmp_path: Path) -> None:
    answer = judge_node(tmp_path, HEALTHY[name], "clocks")
    assert (answer.status, answer.findings) == (0, [])
    assert not [one for one in answer.not_read if one["matters"]]


@pytest.mark.parametrize(
    "name", ["eight H100, idle", "two GeForce", "eight H100, split", "dense work at the power limit"]
)
def test_a_healthy_board_has_no_finding_in_a_watch(name: str, tmp_path: Path) -> None:
    answer = judge_node(tmp_path, HEALTHY[name], "clocks", "--watch", "2")
    assert (answer.status, answer.findings) == (0, [])


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        (0x48, "hardware-thermal-slowdown"),
        (0x88, "power-brake"),
        (0xE8, "power-brake"),
    ],
)
def test_hardware_slowdown_that_stays_drains_the_node(bits: int, kind: str, tmp_path: Path) -> None:
    answer = judge_node(tmp_path, f"{EIGHT_B200}reasons_at 3 0 {bits}\n", "clocks")
    assert answer.status == 1
    assert answer.faults == [(kind, "drain", "GPU 3")]


def test_hardware_slowdown_without_heat_or_power_brake_is_a_fault_only_if_most_readings_show_it(
    tmp_path: Path,
) -> None:
    board = f"{EIGHT_B200}reasons_at 3 0 8\n"
    once = judge_node(tmp_path, board, "clocks")
    assert (once.status, once.notes) == (0, ["hardware-slowdown-alone"])
    watched = judge_node(tmp_path, board, "clocks", "--watch", "2")
    assert watched.faults == [("hardware-slowdown", "drain", "GPU 3")]


def test_hardware_slowdown_that_is_gone_half_a_second_later_is_a_note(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}reasons_at 3 0 8\nreasons_at 3 450 0\n"
    answer = judge_node(tmp_path, board, "clocks")
    assert (answer.status, answer.faults) == (0, [])


def test_heat_that_the_driver_answers_is_a_note_in_one_reading_and_a_fault_if_it_lasts(
    tmp_path: Path,
) -> None:
    hot = "reasons_at 3 0 32\nviolation 3 1 500000000\nviolation 3 269 500000000\ntemp 3 78 96\n"
    board = f"{EIGHT_B200}temperature 45\n{hot}"
    once = judge_node(tmp_path, board, "clocks")
    assert (once.status, once.notes) == (0, ["software-thermal-slowdown", "hot"])
    watched = judge_node(tmp_path, board, "clocks", "--watch", "3")
    assert watched.faults == [("slowed-by-heat", "drain", "GPU 3")]
    # Slowed by heat at 78 °C: the temperature of the GPU alone does not tell.
    assert watched.by_gpu("thermal_share_below_85")[3] > 0.3
    assert watched.by_gpu("thermal_share_below_85")[2] == 0


def test_slowdown_between_two_readings_is_found_by_the_counters(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}violation 3 270 50000000\nviolation_before 5 270 9000000000000\n"
    answer = judge_node(tmp_path, board, "clocks", "--watch", "3")
    assert answer.faults == [("hardware-thermal-slowdown", "drain", "GPU 3")]
    assert answer.by_gpu("hardware_slowdown_share")[5] == 0


def test_the_fields_of_a_driver_that_numbers_them_otherwise_are_not_read_as_times(tmp_path: Path) -> None:
    board = EIGHT_B200.replace("580.95.05", "575.57.08") + "violation 3 270 900000000\n"
    answer = judge_node(tmp_path, board, "clocks", "--watch", "2")
    assert answer.status == 0
    assert not answer.by_gpu("hardware_slowdown_share")
    assert any(one["what"] == "time in hardware slowdown" for one in answer.not_read)


def test_without_the_fields_the_older_call_gives_the_times(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}violation_fields 0\nviolation 3 1 900000000\n"
    answer = judge_node(tmp_path, board, "clocks", "--watch", "3")
    assert answer.faults == [("slowed-by-heat", "drain", "GPU 3")]


def test_one_limit_below_the_others_was_left_behind_and_the_same_on_all_is_a_choice(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}limits 5 1000000 200000 1000000\nlimit 5 600000 600000\n"
    answer = judge_node(tmp_path, board, "clocks")
    assert answer.faults == [("power-limit-lowered", "restart", "GPU 5")]
    assert "nvidia-smi -i 5 -pl 1000" in answer.records[0]["next"]
    assert answer.by_gpu("power_limit_share")[5] == 0.6
    assert answer.document["details"]["settings"]["power limit"] == "1000 W × 7, 600 W × 1"
    alike = EIGHT_B200 + "".join(
        f"limits {gpu} 1000000 200000 1000000\nlimit {gpu} 600000 600000\n" for gpu in range(8)
    )
    answer = judge_node(tmp_path, alike, "clocks")
    assert (answer.status, set(answer.notes)) == (0, {"power-limit-lowered"})


def test_a_cap_from_outside_of_the_driver_is_named_as_one(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}limits 5 1000000 200000 1000000\nlimit 5 1000000 400000\n"
    answer = judge_node(tmp_path, board, "clocks")
    assert answer.faults == [("power-capped-from-outside", "restart", "GPU 5")]
    assert "BMC" in answer.records[0]["next"]


def test_an_application_clock_left_behind_is_found(tmp_path: Path) -> None:
    board = (
        EIGHT_A100
        + "power_limit 400000\n"
        + "".join(f"app_clock {gpu} {765 if gpu == 2 else 1410} 1410\n" for gpu in range(8))
    )
    answer = judge_node(tmp_path, board, "clocks")
    assert answer.faults == [("application-clock-lowered", "restart", "GPU 2")]


def test_virtual_gpus_that_give_no_reasons_are_not_applicable(tmp_path: Path) -> None:
    board = f"{ONE_H200_VM}fail nvmlDeviceGetCurrentClocksEventReasons 3\n"
    answer = judge_node(tmp_path, board, "clocks")
    assert answer.status == 80


@pytest.mark.parametrize("code", [4, 15, 999])
def test_reasons_that_cannot_be_read_are_unknown_and_not_fine(code: int, tmp_path: Path) -> None:
    board = f"{EIGHT_B200}fail nvmlDeviceGetCurrentClocksEventReasons {code}\n"
    answer = judge_node(tmp_path, board, "clocks")
    assert answer.status == 3
    assert "unknown: reasons for the clocks of GPU 0" in answer.said


# The verdict on readings under load, pure.

GPU = GpuClocks(
    index=0,
    name="NVIDIA H100 80GB HBM3",
    sm=1980,
    sm_max=1980,
    reasons=0,
    counters={"power cap": 0, "heat": 0, "hardware thermal": 0, "power brake": 0},
    temperature=60,
    power=500.0,
    limit=700.0,
    enforced=700.0,
    default=700.0,
    utilisation=1.0,
)


def watch(*gpus: GpuClocks, **capped: float) -> NodeVerdict:
    """Readings each second, in which GPU `g3` was power capped for this share of the time."""
    readings = []
    for at in range(61):
        now = []
        for index, gpu in enumerate(gpus):
            share = capped.get(f"g{index}", 0.0)
            counters: dict[str, int] = {**gpu.counters, "power cap": int(share * at * 1e9)}
            now.append(replace(gpu, index=index, counters=counters, counted_at=float(at)))
        readings.append(GpuReading(float(at), ClockFacts(tuple(now), counts_hardware=True)))
    return judge_clocks(readings)


def one_gpu(at: float, gpu: GpuClocks) -> GpuReading[ClockFacts]:
    return GpuReading(at, ClockFacts((replace(gpu, counted_at=at),), counts_hardware=True))


def of(verdict: NodeVerdict) -> list[tuple[str, Action, str]]:
    return [(one.kind, one.action, one.where) for one in verdict.findings]


def at_limit(**changes: Any) -> GpuClocks:
    return replace(GPU, **{"sm": 1500, "power": 695.0, "reasons": 4, **changes})


def test_equal_gpus_under_load_have_no_finding() -> None:
    assert not watch(*[GPU] * 8).findings


def test_a_gpu_below_its_peers_for_no_reason_is_named() -> None:
    verdict = watch(*[GPU] * 7, replace(GPU, sm=1800))
    assert of(verdict) == [("clock-below-peers", Action.RESTART, "GPU 7")]
    (slowest,) = [one.value for one in verdict.numbers if one.metric == "clock_over_peers"]
    assert slowest == pytest.approx(1800 / 1980)


def test_an_idle_gpu_is_not_behind_its_busy_peers() -> None:
    assert not watch(*[GPU] * 7, replace(GPU, sm=345, utilisation=0.0, reasons=1)).findings


def test_a_gpu_of_another_kind_is_no_peer() -> None:
    assert not watch(*[GPU] * 3, replace(GPU, name="NVIDIA L40S", sm=1500, sm_max=1600)).findings


def test_dense_work_at_the_limit_beside_light_work_at_full_clock_is_no_fault() -> None:
    gpus = [*[at_limit()] * 4, *[GPU] * 4]
    assert not watch(*gpus, g0=1.0, g1=1.0, g2=1.0, g3=1.0).findings


def test_boards_at_their_limit_differ_by_some_per_cent() -> None:
    shares = {f"g{index}": 1.0 for index in range(8)}
    some = watch(*[at_limit()] * 7, at_limit(sm=1400), **shares)
    assert of(some) == [("clock-below-peers", Action.KEEP, "GPU 7")]
    much = watch(*[at_limit()] * 7, at_limit(sm=1100), **shares)
    assert of(much) == [("clock-below-peers", Action.DRAIN, "GPU 7")]


def test_a_locked_clock_is_found_without_any_reason_even_on_a_single_gpu() -> None:
    (found,) = watch(replace(GPU, sm=600, power=250.0)).findings
    assert (found.kind, found.action) == ("clock-held-low", Action.RESTART)
    assert "nvidia-smi -i 0 -rgc" in found.next


def test_a_lowered_limit_that_acts_is_a_fault_even_where_all_gpus_have_it() -> None:
    capped = at_limit(limit=400.0, enforced=400.0, power=398.0, sm=1000)
    verdict = watch(*[capped] * 8, **{f"g{index}": 0.9 for index in range(8)})
    assert set(of(verdict)) == {("power-limit-lowered", Action.RESTART, f"GPU {index}") for index in range(8)}


def test_a_lowered_limit_that_does_not_act_stays_a_note() -> None:
    lowered = replace(GPU, limit=650.0, enforced=650.0)
    assert {one.action for one in watch(*[lowered] * 8).findings} == {Action.KEEP}


def test_a_power_cap_far_below_the_limit_is_noted() -> None:
    verdict = watch(*[at_limit(power=400.0)] * 8, g2=0.9)
    assert ("power-capped-below-limit", Action.KEEP, "GPU 2") in of(verdict)
    assert not verdict.faults


def test_a_moment_of_hardware_slowdown_is_a_note_and_a_hundredth_of_the_time_a_fault() -> None:
    for nanoseconds, action in ((50_000_000, Action.KEEP), (700_000_000, Action.DRAIN)):
        readings = [
            GpuReading(
                at,
                ClockFacts(
                    (replace(GPU, counters={**GPU.counters, "power brake": count}, counted_at=at),),
                    counts_hardware=True,
                ),
            )
            for at, count in ((0.0, 7), (60.0, 7 + nanoseconds))
        ]
        (found,) = judge_clocks(readings).findings
        assert (found.kind, found.action) == ("power-brake", action)


def test_a_counter_that_runs_back_or_too_fast_is_unknown_and_not_zero() -> None:
    for before, after in ((5_000_000_000, 0), (0, 5_000_000_000_000)):
        readings = [
            GpuReading(
                at,
                ClockFacts(
                    (replace(GPU, counters={"hardware thermal": count}, counted_at=at),), counts_hardware=True
                ),
            )
            for at, count in ((0.0, before), (60.0, after))
        ]
        verdict = judge_clocks(readings)
        assert not verdict.findings
        assert not [one for one in verdict.numbers if one.metric == "hardware_slowdown_share"]
        assert any("ran back or faster" in one.why for one in verdict.not_read)


def test_a_clock_that_falls_under_load_is_a_number_and_no_fault() -> None:
    clocks = [1965] * 12 + [1580] * 49
    readings = [
        GpuReading(
            float(at),
            ClockFacts((at_limit(sm=clock, sm_max=1965, counted_at=float(at)),), counts_hardware=True),
        )
        for at, clock in enumerate(clocks)
    ]
    verdict = judge_clocks(readings)
    assert not verdict.findings
    (drift,) = [one.value for one in verdict.numbers if one.metric == "clock_last_over_first"]
    assert drift == pytest.approx(1580 / 1965)
