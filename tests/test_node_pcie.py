"""The PCIe link of each GPU as NVML reports it."""

from pathlib import Path

import pytest

from tests.node_probe import judge_node
from tests.nvml import EIGHT_B200
from tests.nvml.boards import EIGHT_A100, EIGHT_H100, FOUR_L40S, ONE_H200_VM, TWO_4090

BUSY = "".join(f"utilisation {gpu} 100\n" for gpu in range(8))
HEALTHY = {
    "eight H100, idle": EIGHT_H100 + "pcie 1 16 5 16\n",
    "eight B200 with old errors": EIGHT_B200
    + "pcie_errors_before 2 94 900000\npcie_errors_before 2 173 70\n",
    "eight A100": EIGHT_A100 + "pcie 4 16 4 16\n",
    "eight H100, split": EIGHT_H100 + "mig 1\npcie 1 16 5 16\nfail nvmlDeviceGetUtilizationRates 3\n",
    "four L40S, one in a slot with eight lanes": FOUR_L40S
    + "pcie 4 16 4 16\npcie_max 1 4 8\npcie_gpu 1 4 8\n",
    "two GeForce in slots with eight lanes": TWO_4090 + "pcie 1 8 4 8\n",
    "a GeForce that switches lanes off": TWO_4090 + "pcie 1 16 4 16\npcie_gpu 1 1 4\n",
    "a virtual machine": ONE_H200_VM,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_board_has_no_fault(name: str, tmp_path: Path) -> None:
    answer = judge_node(tmp_path, HEALTHY[name], "pcie")
    assert (answer.status, answer.faults) == (0, [])
    assert not [one for one in answer.not_read if one["matters"]]


def test_missing_lanes_drain_the_node_at_any_load(tmp_path: Path) -> None:
    answer = judge_node(tmp_path, f"{EIGHT_B200}pcie_gpu 3 1 8\n", "pcie")
    assert answer.faults == [("pcie-link-narrow", "drain", "GPU 3 (0000:33:00.0)")]
    assert answer.by_gpu("pcie_width_share") == {gpu: 0.5 if gpu == 3 else 1.0 for gpu in range(8)}


def test_a_desktop_board_with_fewer_lanes_is_judged_under_load(tmp_path: Path) -> None:
    idle = f"{TWO_4090}pcie 4 16 4 16\npcie_gpu 1 4 4\n"
    assert judge_node(tmp_path, idle, "pcie").notes == ["pcie-link-narrow"]
    answer = judge_node(tmp_path, f"{idle}utilisation 1 100\n", "pcie", "--watch", "1")
    assert [kind for kind, *_ in answer.faults] == ["pcie-link-narrow"]


def test_a_slot_that_is_limited_on_one_place_of_a_baseboard_is_found(tmp_path: Path) -> None:
    answer = judge_node(tmp_path, f"{EIGHT_H100}pcie_max 6 5 8\npcie_gpu 6 5 8\n", "pcie")
    assert answer.faults == [("pcie-slot-limited", "drain", "GPU 6 (0000:4b:00.0)")]


def test_an_idle_link_is_not_judged_by_its_generation_and_a_busy_one_is(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}pcie 1 16 5 16\n"
    idle = judge_node(tmp_path, board, "pcie", "--watch", "3")
    assert (idle.status, idle.findings) == (0, [])
    assert any("--load" in one["why"] for one in idle.not_read)
    busy = judge_node(tmp_path, f"{board}utilisation 4 100\n", "pcie", "--watch", "3")
    assert busy.faults == [("pcie-link-slow", "drain", "GPU 4 (0000:3b:00.0)")]
    assert busy.by_gpu("pcie_generation_share")[4] == 0.2


def test_a_link_that_speeds_up_under_load_is_sound(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}pcie 1 16 5 16\nutilisation 4 100\npcie_at 4 900 5 16\n"
    answer = judge_node(tmp_path, board, "pcie", "--watch", "3")
    assert (answer.status, answer.findings) == (0, [])


def test_errors_are_judged_by_their_change(tmp_path: Path) -> None:
    board = f"{EIGHT_B200}pcie_errors 1 94 20\npcie_errors 2 179 2\npcie_errors 3 173 1\npcie_errors_before 5 180 4\n"
    answer = judge_node(tmp_path, board, "pcie", "--watch", "3")
    assert answer.faults == [
        ("pcie-replays", "drain", "GPU 1 (0000:23:00.0)"),
        ("pcie-errors-uncorrected", "drain", "GPU 2 (0000:2b:00.0)"),
    ]
    assert answer.notes == ["pcie-errors-corrected"]
    assert answer.by_gpu("pcie_replays_per_minute")[5] == 0


def test_fatal_errors_of_the_past_are_a_note(tmp_path: Path) -> None:
    answer = judge_node(tmp_path, f"{EIGHT_B200}pcie_errors_before 5 180 4\n", "pcie")
    assert (answer.status, answer.notes) == (0, ["pcie-errors-before"])


def test_a_few_replays_in_a_short_watch_are_no_fault(tmp_path: Path) -> None:
    answer = judge_node(tmp_path, f"{EIGHT_B200}pcie_errors 1 94 0.2\n", "pcie", "--watch", "3")
    assert answer.faults == []


def test_a_width_that_is_made_up_is_unknown(tmp_path: Path) -> None:
    answer = judge_node(tmp_path, f"{ONE_H200_VM}pcie 0 0 0 0\n", "pcie")
    assert answer.status == 80


def test_a_link_that_refuses_to_be_read_is_unknown_and_not_fine(tmp_path: Path) -> None:
    answer = judge_node(tmp_path, f"{EIGHT_B200}fail nvmlDeviceGetCurrPcieLinkWidth 999\n", "pcie")
    assert answer.status == 3
    assert "unknown: nvmlDeviceGetCurrPcieLinkWidth of GPU 0" in answer.said


def test_a_load_needs_a_watch_and_a_gpu(tmp_path: Path) -> None:
    answer = judge_node(tmp_path, EIGHT_B200, "pcie", "--load")
    assert answer.status == 2
    assert "--watch" in answer.said


def test_requests_that_a_device_does_not_support_are_no_fault_of_its_link(tmp_path: Path) -> None:
    # `lspci` causes them; each counts as a non-fatal error too.
    board = f"{EIGHT_B200}pcie_errors 2 179 2\npcie_errors 2 181 2\n"
    answer = judge_node(tmp_path, board, "pcie", "--watch", "3")
    assert (answer.faults, answer.notes) == ([], ["pcie-errors-corrected"])


def test_a_gpu_without_an_equal_one_that_has_all_lanes_is_judged_under_load(tmp_path: Path) -> None:
    # NVIDIA allows an idle GPU fewer lanes.
    idle = judge_node(tmp_path, f"{ONE_H200_VM}pcie 5 8 5 16\n", "pcie")
    assert (idle.faults, idle.notes) == ([], ["pcie-link-narrow"])
    board = f"{ONE_H200_VM}pcie 5 8 5 16\nutilisation 0 100\n"
    busy = judge_node(tmp_path, board, "pcie", "--watch", "2")
    assert [one[:2] for one in busy.faults] == [("pcie-link-narrow", "drain")]
