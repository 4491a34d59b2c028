"""Memory of GPUs: every fault leads to NVIDIA's action, and nothing that is healthy or unknown counts as one."""

from pathlib import Path

import pytest

from runner.node.findings import Action, NotRead
from runner.node.gpu.group import GpuReading
from runner.node.gpu.memory import judge_memory
from runner.node.gpu.memory_facts import EccCounts, GpuMemory, RemappedRows
from runner.node.gpu.together import UnreadFact, gpus_named, not_read_together, same_on_all
from runner.node.recovery import recovery_numbered, recovery_worded
from tests.node_probe import judge_node
from tests.nvml import EIGHT_B200
from tests.nvml.boards import EIGHT_A100
from tests.nvml.healthy import HEALTHY_NODES

NEW = EIGHT_B200 + "memory_kind 3\n"
OLD = EIGHT_A100 + "memory_kind 2\n"
VOLTA = HEALTHY_NODES["two sockets of POWER9"]

# One fault each: the lines that make it, and what has to be found.
FAULTS = {
    "a remapping that failed": (OLD + "remapped 3 0 9 0 1\n", "row-remap-failure", "replace"),
    "a remapping that is pending": (OLD + "remapped 3 0 1 1 0\n", "row-remap-pending", "reset"),
    "uncorrectable errors in DRAM since the reset": (
        OLD + "ecc 3 1 0 2 2\n",
        "uncorrectable-errors",
        "reset",
    ),
    "uncorrectable errors in SRAM since the reset": (
        OLD + "ecc 3 1 0 7 1\n",
        "uncorrectable-errors",
        "reset",
    ),
    "the threshold of SRAM": (OLD + "sram 3 1\necc 3 1 1 7 5\n", "sram-threshold", "replace"),
    "pages whose retirement is pending": (VOLTA + "retired 3 0 1 1\n", "page-retirement-pending", "reset"),
    "as many retired pages as there can be": (VOLTA + "retired 3 30 34 0\n", "retired-pages-full", "replace"),
    "memory beyond repair": (NEW + "unrepairable 3\n", "memory-unrepairable", "replace"),
    "a TPC that waits for its repair": (NEW + "repair 3 0 1 0\n", "tpc-repair-pending", "reset"),
    "the driver wants a reset": (NEW + "recovery 3 1\n", "recovery-action", "reset"),
    "the driver wants a reboot": (NEW + "recovery 3 2\n", "recovery-action", "drain"),
    "the driver wants peers to stop": (NEW + "recovery 3 3\n", "recovery-action", "drain"),
    "the driver wants to drain and reset": (NEW + "recovery 3 4\n", "recovery-action", "reset"),
    "the driver wants something new": (NEW + "recovery 3 42\n", "recovery-action", "drain"),
}


@pytest.mark.parametrize("name", HEALTHY_NODES)
def test_nothing_is_found_in_the_memory_of_a_healthy_node(tmp_path: Path, name: str) -> None:
    judged = judge_node(tmp_path, HEALTHY_NODES[name], "memory")
    assert judged.faults == []
    assert judged.status in {0, 80}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_on_its_gpu_with_the_action(tmp_path: Path, name: str) -> None:
    board, kind, action = FAULTS[name]
    judged = judge_node(tmp_path, board, "memory")
    assert judged.faults == [(kind, action, "GPU 3")]
    assert judged.status == 1
    assert judged.document["measurements"][0]["value"] == 1


def test_the_drivers_request_takes_in_what_it_ends_and_leaves_what_is_graver(tmp_path: Path) -> None:
    board = NEW + "recovery 3 1\nremapped 3 0 9 1 1\necc 3 1 0 2 1\n"
    judged = judge_node(tmp_path, board, "memory")
    assert judged.faults == [("row-remap-failure", "replace", "GPU 3"), ("recovery-action", "reset", "GPU 3")]
    request = judged.document["details"]["findings"][1]
    assert request["vendor"] == "Reset (GPU recovery action)"
    assert "a row remapping is pending" in request["found"]


def test_the_driver_may_ask_for_more_than_the_table(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, NEW + "recovery 3 2\nremapped 3 0 1 1 0\n", "memory")
    assert judged.faults == [("recovery-action", "drain", "GPU 3")]


def test_a_pending_remapping_and_the_error_that_caused_it_are_one_finding(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, OLD + "remapped 3 0 1 1 0\necc 3 1 0 2 1\n", "memory")
    assert judged.faults == [("row-remap-pending", "reset", "GPU 3")]
    assert "uncorrectable, volatile: 1" in judged.document["details"]["findings"][0]["evidence"]


def test_an_aggregate_counter_is_no_fault_of_today(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, NEW + "ecc 3 1 1 2 7\necc 3 0 1 2 9000\n", "memory")
    assert (judged.status, judged.findings) == (0, [])
    assert judged.document["details"]["facts"]["GPU 3"]["uncorrected_aggregate"] == 7


def test_errors_that_come_while_the_node_is_watched_drain_it(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, OLD + "ecc_rate 3 1 2 40\n", "memory", "--watch", "1")
    assert ("uncorrectable-errors-now", "drain", "GPU 3") in judged.faults


def test_corrected_errors_and_their_remaps_are_notes(tmp_path: Path) -> None:
    board = OLD + "ecc_rate 3 0 2 40\nremapped_rate 3 9 0\n"
    judged = judge_node(tmp_path, board, "memory", "--watch", "1")
    assert judged.faults == []
    assert {kind for kind, _, _ in judged.findings} >= {"corrected-errors-now", "correctable-remaps-now"}


def test_a_gpu_that_loses_its_spare_rows_is_noted(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, NEW + "remapped 3 0 9 0 0\nbanks 3 2550 0 0 8 2\n", "memory")
    assert judged.findings == [("few-spare-rows", "keep", "GPU 3")]


def test_ecc_that_is_off_on_a_data_centre_board_is_unknown_and_not_zero(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, NEW + "ecc_mode 3 0 0\n", "memory")
    assert judged.status == 3
    assert "ECC is off, so no error is counted" in judged.said


def test_a_change_of_the_ecc_mode_that_waits_is_noted(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, NEW + "ecc_mode 3 1 0\n", "memory")
    assert judged.findings == [("ecc-change-pending", "keep", "GPU 3")]
    assert judged.document["details"]["settings"] == {"ECC": "on"}


def test_the_threshold_of_sram_is_unknown_without_root_only_where_there_are_errors(tmp_path: Path) -> None:
    closed = judge_node(tmp_path, NEW + "sram_closed\necc 3 1 1 7 1\n", "memory")
    assert closed.status == 3
    assert "the SRAM threshold of GPU 3" in closed.said
    assert "run it as root" in closed.said
    assert judge_node(tmp_path, NEW + "sram_closed\n", "memory").status == 0


@pytest.mark.parametrize(("code", "fault"), [(15, ("gpu-lost", "drain")), (16, ("reset-required", "reset"))])
def test_a_gpu_that_nvml_gives_up_is_a_fault_of_its_own(
    tmp_path: Path, code: int, fault: tuple[str, str]
) -> None:
    judged = judge_node(tmp_path, NEW + f"fail nvmlDeviceGetRemappedRows {code}\n", "memory")
    assert judged.faults == [(*fault, f"GPU {gpu}") for gpu in range(8)]


def test_past_errors_after_which_the_driver_asks_for_nothing_are_a_note(tmp_path: Path) -> None:
    board = NEW + "ecc 3 1 0 2 5\nremapped 4 0 1 1 0\nrepair 5 1 0 0\nrepair 6 0 0 1\n"
    assert judge_node(tmp_path, board, "memory").findings == [
        ("uncorrectable-errors", "keep", "GPU 3"),
        ("row-remap-pending", "keep", "GPU 4"),
        ("repair-pending", "keep", "GPU 5"),
        ("repair-pending", "keep", "GPU 6"),
    ]


def test_what_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, OLD + "fail nvmlDeviceGetRemappedRows 4\n", "memory")
    assert judged.status == 3
    assert "remapped rows of GPUs 0-7" in judged.said


def test_a_counter_that_was_reset_while_watched_counts_from_zero() -> None:
    def at(seconds: float, count: int) -> GpuReading[tuple[GpuMemory, ...]]:
        return GpuReading(seconds, (GpuMemory("GPU 0", "x", ecc=True, volatile=EccCounts(0, count, 0)),))

    assert judge_memory((at(0, 9), at(60, 0))).faults == ()
    (now, since) = judge_memory((at(0, 9), at(60, 2))).faults
    assert (now.action, now.found) == (Action.DRAIN, "2 uncorrectable memory errors in 60 s")
    assert since.kind == "uncorrectable-errors"


def test_the_share_of_failed_remaps_is_of_gpus_that_have_any() -> None:
    rows = [
        RemappedRows(0, 0, False, False),
        RemappedRows(1, 0, False, False),
        RemappedRows(0, 8, False, True),
    ]
    facts = tuple(GpuMemory(f"GPU {place}", "x", rows=one) for place, one in enumerate(rows))
    numbers = {one.metric: one.value for one in judge_memory((GpuReading(0, facts),)).numbers}
    assert numbers["failed_remap_share"] == 0.5


def test_words_and_numbers_of_the_recovery_action_mean_the_same() -> None:
    for number in range(8):
        assert recovery_worded(recovery_numbered(number).words) == recovery_numbered(number)
    assert recovery_worded("GPU_RESET") == recovery_numbered(1)
    assert not recovery_numbered(0).asks
    assert recovery_worded("Dance") is None


def test_equal_gaps_of_several_gpus_are_told_once() -> None:
    gap = NotRead("rows", "why")
    assert [str(one) for one in not_read_together((f"GPU {place}", gap) for place in (0, 1, 2, 5))] == [
        "rows of GPUs 0-2, 5: why"
    ]
    assert gpus_named(["GPU 0000:1b:00.0", "GPU 3"]) == "GPU 0000:1b:00.0, GPU 3"
    assert same_on_all(["a", "b", "a"]) == "a × 2, b × 1"
    assert same_on_all(["a", None]) == "a × 1, unknown × 1"
    assert same_on_all([None, None]) is None
    assert UnreadFact("x", "closed", "y") == UnreadFact("x", "closed", "y")


def test_of_a_board_that_has_to_go_back_no_reset_of_its_pending_row_is_told(tmp_path: Path) -> None:
    board = NEW + "remapped 4 0 8 1 1\nrecovery 4 0\n"
    assert judge_node(tmp_path, board, "memory").findings == [("row-remap-failure", "replace", "GPU 4")]
