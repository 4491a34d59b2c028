import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from runner.hang.gpu_load import NO_GPU, gpu_loads
from tests import nvml
from tests.nvml import EIGHT_B200

TWO = (
    EIGHT_B200.replace("count 8", "count 2")
    + "utilisation 0 100\npower 0 251000\nutilisation 1 3\npower 1 190500\n"
)
CHILD = """\
import json, sys
from pathlib import Path
from runner.hang.gpu_load import gpu_loads
loads, unseen = gpu_loads(float(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps([{pid: load.model_dump() for pid, load in loads.items()}, [one.model_dump() for one in unseen]]))
"""
FIRST = "pid:[4026531836]"


def a_proc(tmp_path: Path, *pids: int, namespace: str = FIRST, opened: str | None = None) -> Path:
    """A /proc with these processes; `opened`: what the first of them has open."""
    proc = tmp_path / "proc"
    for pid in pids:
        (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "pid").symlink_to(namespace)
    if opened is not None:
        (proc / str(pids[0]) / "fd" / "3").symlink_to(opened)
    return proc


def looked(tmp_path: Path, board: str, proc: Path, seconds: float = 60.0) -> tuple[dict[str, Any], list[str]]:
    """What a child sees of this board: the loads by pid, and the reasons for what is missing."""
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(seconds), str(proc)],
        env=os.environ | nvml.environment(tmp_path, board),
        capture_output=True,
        text=True,
        check=True,
    )
    loads, unseen = json.loads(ran.stdout)
    assert all(one["source"] == "GPU" for one in unseen)
    return loads, [one["reason"] for one in unseen]


def test_each_process_has_the_load_of_its_gpu(tmp_path: Path) -> None:
    board = TWO + "context 0 71 9000000000\ncontext 1 72 9000000000\n"
    loads, unseen = looked(tmp_path, board, a_proc(tmp_path, 71, 72))
    assert unseen == []
    assert loads == {
        "71": {"index": 0, "utilisation": 1.0, "power_w": 251.0, "limit_w": 1000.0},
        "72": {"index": 1, "utilisation": 0.03, "power_w": 190.5, "limit_w": 1000.0},
    }


def test_of_a_process_with_two_contexts_the_gpu_with_its_memory_counts(tmp_path: Path) -> None:
    board = TWO + "context 1 72 80000000000\ncontext 0 72 500000000\ncontext 0 71 80000000000\n"
    loads, unseen = looked(tmp_path, board, a_proc(tmp_path, 71, 72))
    assert {pid: load["index"] for pid, load in loads.items()} == {"71": 0, "72": 1}
    assert unseen == []


def test_a_reading_that_the_board_does_not_have_is_none_and_the_others_stay(tmp_path: Path) -> None:
    board = (
        TWO + "context 0 71 1\nfail nvmlDeviceGetUtilizationRates 3\nfail nvmlDeviceGetEnforcedPowerLimit 3\n"
    )
    loads, unseen = looked(tmp_path, board, a_proc(tmp_path, 71))
    assert loads == {"71": {"index": 0, "utilisation": None, "power_w": 251.0, "limit_w": None}}
    assert unseen == []


def test_numbers_that_stand_for_unknown_are_none(tmp_path: Path) -> None:
    board = TWO.replace("power 0 251000", "power 0 4294967295").replace(
        "utilisation 0 100", "utilisation 0 4294967295"
    )
    loads, _ = looked(tmp_path, board + "context 0 71 1\n", a_proc(tmp_path, 71))
    assert (loads["71"]["utilisation"], loads["71"]["power_w"]) == (None, None)


def test_idle_gpus_have_no_process_and_nothing_is_missing(tmp_path: Path) -> None:
    assert looked(tmp_path, TWO, a_proc(tmp_path)) == ({}, [])


def test_a_process_that_ended_meanwhile_is_named_and_no_other_takes_its_place(tmp_path: Path) -> None:
    loads, (reason,) = looked(tmp_path, TWO + "context 0 71 1\ncontext 1 72 1\n", a_proc(tmp_path, 72))
    assert list(loads) == ["72"]
    assert "1 process" in reason


def test_pids_of_the_node_are_not_taken_for_those_of_a_container(tmp_path: Path) -> None:
    # Process 71 of the container is a shell, by chance with the pid that a process has on the node.
    proc = a_proc(tmp_path, 71, namespace="pid:[4026532201]", opened="/dev/null")
    loads, (reason,) = looked(tmp_path, TWO + "context 0 71 1\ncontext 1 999 1\n", proc)
    assert loads == {}
    assert "2 processes by pids of the node" in reason
    assert "look from the node" in reason


def test_in_a_container_a_process_with_a_gpu_open_is_the_one_that_nvml_means(tmp_path: Path) -> None:
    proc = a_proc(tmp_path, 71, namespace="pid:[4026532201]", opened="/dev/nvidia0")
    loads, unseen = looked(tmp_path, TWO + "context 0 71 1\n", proc)
    assert list(loads) == ["71"]
    assert unseen == []


def test_a_container_in_which_nvml_lists_nothing_is_not_an_idle_node(tmp_path: Path) -> None:
    loads, (reason,) = looked(tmp_path, TWO, a_proc(tmp_path, namespace="pid:[4026532201]"))
    assert loads == {}
    assert "lists no process" in reason


def test_a_host_without_gpus_has_that_reason_and_no_other(tmp_path: Path) -> None:
    board = TWO.replace("count 2", "count 0")
    assert looked(tmp_path, board, a_proc(tmp_path)) == ({}, [NO_GPU])
    assert looked(tmp_path, TWO + "fail nvmlInit 9\n", a_proc(tmp_path / "other")) == ({}, [NO_GPU])


def test_a_lost_gpu_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    board = TWO + "context 0 71 1\ncontext 1 72 1\noff_bus 0\n"
    loads, (reason,) = looked(tmp_path, board, a_proc(tmp_path, 71, 72))
    assert list(loads) == ["72"]
    assert reason.startswith("NVML, GPU 0:")


def test_a_list_of_processes_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    board = TWO + "context 0 71 1\nfail nvmlDeviceGetComputeRunningProcesses_v3 15\n"
    loads, unseen = looked(tmp_path, board, a_proc(tmp_path, 71))
    assert loads == {}
    assert [reason[:11] for reason in unseen] == ["NVML, GPU 0", "NVML, GPU 1"]
    assert all("dmesg" in reason for reason in unseen)


def test_a_driver_that_hangs_costs_the_time_limit_and_no_more(tmp_path: Path) -> None:
    loads, (reason,) = looked(
        tmp_path, TWO + "fail nvmlDeviceGetCount_v2 9999\n", a_proc(tmp_path), seconds=0.3
    )
    assert loads == {}
    assert "no answer within 0.3 s" in reason
    assert "hung" in reason


def test_this_host_is_looked_at_without_an_error() -> None:
    loads, unseen = gpu_loads(60.0)
    assert loads or unseen or Path("/dev/nvidia0").exists()
