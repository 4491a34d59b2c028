"""The NVLink fabric: every fault of its start is found with what to start, and a healthy node of any kind has none."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.hardware.fabric_health import FabricComplaint, fabric_complaints
from runner.node.findings import Action, NodeFinding, NodeVerdict
from runner.node.gpu.driver_host import (
    DriverHost,
    NvidiaDevice,
    driver_version,
    installed_packages,
    read_driver_host,
)
from runner.node.gpu.fabric import judge_fabric
from runner.node.gpu.fabric_reading import FabricFacts, GpuFabric
from runner.node.gpu.group import GpuReading
from tests.driver_trees import NVRM, NVRM_OPEN, driver_tree
from tests.nvml import EIGHT_B200, environment
from tests.nvml.boards import HEALTHY, ONE_H200_VM, TWO_4090

DAY_S = 86_400.0
MODULES = frozenset({"ib_umad", "mlx5_ib", "nvidia_uvm"})
SOUND = DriverHost(
    uptime_s=DAY_S,
    daemons=frozenset({"nv-fabricmanager", "nvlsm"}),
    modules=MODULES,
    module_version="580.95.05",
)
# Every condition reported and none of them a fault, as on a healthy HGX H100 (DCGM's tests): 2 is false, 1 is none.
HEALTHY_MASK = 0x1AA
FOUR_GB200 = (
    "driver 580.95.05\nname NVIDIA GB200\ncount 4\nmemory 192265846784\ncapability 10 0\nlinks 18\nnvlink_version 5\n"
    "fabric 3 0 0\nclique 0 4026\nclique 1 4026\nclique 2 4026\nclique 3 4026\n"
)


def gpus(count: int = 8, name: str = "NVIDIA B200", state: str = "completed", **more: Any) -> list[GpuFabric]:
    return [GpuFabric(index=index, name=name, state=state, **more) for index in range(count)]


def judged(found: list[GpuFabric], host: DriverHost = SOUND) -> NodeVerdict:
    return judge_fabric([GpuReading(0.0, FabricFacts(tuple(found), host))])


def only(verdict: NodeVerdict) -> NodeFinding:
    (found,) = verdict.findings
    return found


def probe(tmp_path: Path, board: str, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.gpu_state", "--group", "fabric", *words],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment(tmp_path, board)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return done.returncode, {"said": done.stderr, **found}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_healthy_board_of_any_generation_has_a_fault_of_the_fabric(name: str, tmp_path: Path) -> None:
    status, document = probe(tmp_path, HEALTHY[name][0])
    assert (status, document["status"]) in {(0, "ok"), (80, "not_applicable")}, document["reason"]
    assert not document["details"].get("findings")


@pytest.mark.parametrize(
    ("board", "status"),
    [
        (EIGHT_B200 + f"fabric 3 0 {HEALTHY_MASK}\n", 0),
        (EIGHT_B200 + "fabric_version 2\n", 0),
        (EIGHT_B200 + "fabric_version 1\n", 80),
        (EIGHT_B200 + "mig 1\n", 0),
        (FOUR_GB200, 0),
        (ONE_H200_VM, 80),
        (TWO_4090, 80),
        (EIGHT_B200.replace("count 8", "count 1"), 0),
    ],
    ids=["full mask", "older driver", "no such call", "split", "GB200", "VM", "GeForce", "one GPU"],
)
def test_real_readings_of_other_healthy_nodes(board: str, status: int, tmp_path: Path) -> None:
    found, document = probe(tmp_path, board)
    assert found == status, document["reason"]


def test_gpus_that_are_not_registered_long_after_the_start_are_drained_by_a_real_reading(
    tmp_path: Path,
) -> None:
    status, document = probe(tmp_path, EIGHT_B200 + "fabric_gpu 3 2 0 0\nfabric_gpu 5 1 0 0\n")
    if status == 3:
        pytest.skip("this machine has just started")
    (found,) = document["details"]["findings"]
    assert (status, found["action"], found["where"]) == (1, "drain", "GPU 3, 5")
    assert "in progress × 1, not started × 1" in found["found"]
    ready = {
        one["labels"]["gpu"]: one["value"]
        for one in document["measurements"]
        if one["name"] == "fabric_ready"
    }
    assert ready == {index: float(index not in {3, 5}) for index in range(8)}


def test_a_registration_that_ended_with_an_error_is_drained(tmp_path: Path) -> None:
    status, document = probe(tmp_path, EIGHT_B200 + "fabric_gpu 3 3 23 0\n")
    (found,) = document["details"]["findings"]
    assert (status, found["kind"], found["action"]) == (1, "fabric-registration-failed", "drain")


def test_a_fabric_call_that_never_returns_is_unknown_and_not_healthy(tmp_path: Path) -> None:
    status, document = probe(tmp_path, EIGHT_B200 + "fail nvmlDeviceGetGpuFabricInfoV 9999\n")
    assert status == 3
    assert "no answer within" in document["said"]


@pytest.mark.parametrize(
    ("name", "host", "says"),
    [
        (
            "NVIDIA B200",
            replace(SOUND, modules=MODULES - {"ib_umad"}),
            "load the kernel modules ib_umad (modprobe)",
        ),
        ("NVIDIA B200", replace(SOUND, modules=frozenset()), "load the kernel modules ib_umad and mlx5_ib"),
        ("NVIDIA B200", replace(SOUND, daemons=frozenset({"nv-fabricmanager"})), "NVLSM does not run"),
        ("NVIDIA B200", replace(SOUND, daemons=frozenset({"nvlsm"})), "Fabric Manager does not run"),
        (
            "NVIDIA H100 80GB HBM3",
            replace(SOUND, daemons=frozenset(), modules=frozenset()),
            "Fabric Manager does not",
        ),
        (
            "NVIDIA H100 80GB HBM3",
            replace(SOUND, whole=False, daemons=frozenset()),
            "on the host, check nvidia-fabric",
        ),
        ("NVIDIA B200", replace(SOUND, whole=False, daemons=frozenset()), "nvidia-fabricmanager and nvlsm"),
        ("NVIDIA H200", SOUND, "read /var/log/fabricmanager.log"),
        ("NVIDIA GB200", SOUND, "switch trays"),
    ],
)
def test_what_is_missing_for_the_fabric_is_named(name: str, host: DriverHost, says: str) -> None:
    found = only(judged(gpus(name=name, state="in progress"), host))
    assert (found.kind, found.action, found.where) == ("fabric-not-registered", Action.DRAIN, "GPU 0-7")
    assert says in found.next


def test_a_fabric_manager_of_another_version_is_named_with_both_versions() -> None:
    host = replace(SOUND, daemons=frozenset(), packages={"nvidia-fabricmanager-580": "580.65.06"})
    found = only(judged(gpus(name="NVIDIA H100 80GB HBM3", state="in progress"), host))
    assert "nvidia-fabricmanager-580 is 580.65.06 and the driver 580.95.05" in found.next


def test_a_fabric_manager_that_will_not_start_again_is_a_note() -> None:
    host = replace(SOUND, packages={"nvidia-fabricmanager-580": "580.105.08", "nvlsm": "2025.06.11"})
    found = only(judged(gpus(), host))
    assert (found.kind, found.action) == ("fabric-manager-version", Action.KEEP)
    assert not judged(gpus(), replace(host, packages={"nvidia-fabricmanager-580": "580.95.05"})).findings


def test_single_gpus_outside_of_the_fabric_of_a_running_manager_need_a_reset() -> None:
    found = gpus()
    found[2] = replace(found[2], state="in progress")
    assert "reset all GPUs of the board" in only(judged(found)).next


def test_a_virtual_machine_waits_for_the_partition_of_its_host() -> None:
    guest = replace(SOUND, daemons=frozenset(), packages={}, switches=())
    found = only(judged(gpus(name="NVIDIA H200", state="in progress", virtual=True), guest))
    assert "the host's Fabric Manager has to activate the partition" in found.next
    unassigned = (FabricComplaint("partition", "no partition assigned"),)
    found = only(judged(gpus(state="in progress", complaints=unassigned)))
    assert "activate the partition" in found.next


def test_a_virtual_machine_with_the_whole_board_runs_its_own_fabric_manager() -> None:
    guest = replace(SOUND, daemons=frozenset(), packages={"nvidia-fabricmanager-580": "580.95.05"})
    found = only(judged(gpus(name="NVIDIA H200", state="in progress", virtual=True), guest))
    assert "start nvidia-fabricmanager" in found.next


def test_a_node_that_has_just_started_is_unknown_and_neither_healthy_nor_faulty() -> None:
    verdict = judged(gpus(state="in progress"), replace(SOUND, uptime_s=45.0))
    assert not verdict.findings
    assert verdict.not_read[0].matters
    assert "45 s ago" in str(verdict.not_read[0])


def test_only_the_newest_reading_of_a_watch_counts() -> None:
    waiting = FabricFacts(tuple(gpus(state="in progress")), SOUND)
    verdict = judge_fabric([GpuReading(0.0, waiting), GpuReading(60.0, FabricFacts(tuple(gpus()), SOUND))])
    assert not verdict.findings


@pytest.mark.parametrize(
    ("mask", "condition", "action"),
    [
        (HEALTHY_MASK ^ 0b11, "bandwidth", Action.DRAIN),
        (HEALTHY_MASK ^ 0b1100, "recovery", Action.DRAIN),
        (HEALTHY_MASK ^ 0b110000, "route", Action.DRAIN),
        (HEALTHY_MASK ^ 0b11000000, "timeout", Action.DRAIN),
        (HEALTHY_MASK & 0xFF | 5 << 8, "configuration", Action.DRAIN),
        (HEALTHY_MASK & 0xFF | 12 << 8, "configuration", Action.DRAIN),
        (HEALTHY_MASK | 2 << 12, "partition", Action.KEEP),
        (HEALTHY_MASK | 2 << 14, "manager", Action.KEEP),
    ],
)
def test_each_complaint_of_the_driver_is_a_finding(mask: int, condition: str, action: Action) -> None:
    complaints = fabric_complaints(mask)
    assert [one.condition for one in complaints] == [condition]
    found = only(judged(gpus(1, complaints=complaints)))
    assert (found.kind, found.action) == (f"fabric-{condition}", action)


@given(st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_no_mask_breaks_the_reader_and_unreported_fields_are_no_complaint(mask: int, summary: int) -> None:
    fabric_complaints(mask, summary)
    assert not fabric_complaints(0)
    assert not fabric_complaints(HEALTHY_MASK, 1)
    assert not fabric_complaints(1 << 12 | 1 << 14)


def test_the_summary_counts_only_if_the_mask_says_nothing() -> None:
    assert [one.condition for one in fabric_complaints(0, 2)] == ["summary"]
    assert [one.condition for one in fabric_complaints(1, 2)] == ["bandwidth"]


def test_boards_that_report_no_state_are_judged_by_the_daemon() -> None:
    a100 = gpus(name="NVIDIA A100-SXM4-80GB", state="not supported")
    switched = replace(SOUND, switches=read_switches())
    assert not judged(a100, switched).findings
    missing = only(judged(a100, replace(switched, daemons=frozenset())))
    assert (missing.kind, missing.action) == ("fabric-manager-missing", Action.DRAIN)
    hidden = judged(a100, replace(switched, daemons=frozenset(), whole=False))
    assert not hidden.findings
    assert hidden.not_read[0].matters
    assert judged(a100, SOUND).not_applicable


def read_switches() -> tuple[NvidiaDevice, ...]:
    return tuple(NvidiaDevice(f"0000:f{index}:00.0", "0x1af1", "nvidia-nvswitch") for index in range(6))


def test_a_gb200_without_a_fabric_is_only_a_note() -> None:
    found = only(judged(gpus(4, name="NVIDIA GB200", state="not supported")))
    assert found.action is Action.KEEP
    assert judged(gpus(4, name="NVIDIA GB200", state="not supported", virtual=True)).not_applicable


def test_the_host_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    tree = driver_tree(
        tmp_path,
        gpus={"0000:1b:00.0": "nvidia", "0000:43:00.0": None},
        switches=4,
        packages={"nvidia-fabricmanager-580": "580.95.05-1ubuntu1", "bash": "5.2", "nvlsm": "2025.06.11-1"},
    )
    host = read_driver_host(tree)
    assert host.whole
    assert host.daemons == {"nv-fabricmanager", "nvlsm", "nvidia-persistenced", "containerd"}
    assert host.modules is not None
    assert "ib_umad" in host.modules
    assert (host.module_version, len(host.gpus), len(host.switches)) == ("580.95.05", 2, 4)
    assert [gpu.driver for gpu in host.gpus] == ["nvidia", None]
    assert host.packages == {"nvidia-fabricmanager-580": "580.95.05", "nvlsm": "2025.06.11"}


def test_a_container_does_not_show_the_whole_node(tmp_path: Path) -> None:
    assert not read_driver_host(driver_tree(tmp_path, container=True)).whole


def test_the_version_of_both_kinds_of_kernel_module_is_read() -> None:
    assert driver_version(NVRM.format("570.133.20")) == "570.133.20"
    assert driver_version(NVRM_OPEN.format("595.80")) == "595.80"
    assert driver_version("") is None


@given(st.text(max_size=400))
def test_no_package_database_breaks_the_reader(text: str) -> None:
    installed_packages(text + "\n\n" + text)


def test_a_removed_package_is_not_installed() -> None:
    text = "Package: nvlsm\nStatus: deinstall ok config-files\nVersion: 1.0-1\n"
    assert not installed_packages(text)
