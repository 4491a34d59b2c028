"""`host_paths --group rdma`: ports that are slow or down among their peers, GPUDirect RDMA, and no false alarm."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.node.findings import Action, NodeVerdict
from runner.node.host.group import HostReading
from runner.node.host.rdma import GROUP, judge_rdma
from runner.node.host.rdma_reading import RdmaFacts, RdmaPort, Role
from runner.node.host.tree import HostTree
from tests.rdma import CLOSED, EDR, HDR, HEALTHY, NDR, SDR, Captured, b200_with_management, eight_ndr


def judged(tree: Captured) -> NodeVerdict:
    return GROUP.judge(GROUP.read(HostTree(tree.root)))


def kinds(verdict: NodeVerdict) -> list[tuple[str, str]]:
    return [(one.kind, one.where) for one in verdict.faults]


@pytest.mark.parametrize("host", HEALTHY, ids=lambda host: host.__name__)
def test_a_healthy_host_has_no_fault_and_nothing_unknown(
    tmp_path: Path, host: Callable[[Captured], None]
) -> None:
    tree = Captured(tmp_path)
    host(tree)
    verdict = judged(tree)
    assert kinds(verdict) == []
    assert [one for one in verdict.not_read if one.matters] == []
    assert verdict.judged


def test_a_host_without_rdma_is_not_applicable(tmp_path: Path) -> None:
    Captured(tmp_path).gpus("NVIDIA A10", 1)
    assert judged(Captured(tmp_path)).not_applicable == "this host has no RDMA device"


def test_a_controller_without_a_driver_is_unknown_and_not_absent(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    tree.write("/sys/bus/pci/devices/0000:18:00.0/class", "0x020700")
    tree.write("/sys/bus/pci/devices/0000:18:00.0/vendor", "0x15b3")
    verdict = judged(tree)
    assert verdict.not_applicable is None
    assert "modprobe mlx5_ib" in str(verdict.not_read[0])


def test_a_slow_port_and_one_that_is_down_are_named_and_the_node_is_drained(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    eight_ndr(tree)
    tree.port("mlx5_2", HDR)
    tree.port("mlx5_5", SDR, state="1: DOWN", physical="2: Polling")
    verdict = judged(tree)
    assert kinds(verdict) == [("port-down", "mlx5_5 port 1"), ("port-slow", "mlx5_2 port 1")]
    assert {one.action for one in verdict.faults} == {Action.DRAIN}
    assert "Polling" in verdict.faults[0].found
    assert "200 Gb/sec" in verdict.faults[1].found


def test_a_port_without_a_subnet_manager_says_so(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    for number in range(8):
        tree.port(f"mlx5_{number}", state="2: INIT")
    assert [one.kind for one in judged(tree).faults] == ["no-subnet-manager"] * 8
    tree.port("mlx5_3")
    tree.port("mlx5_4")
    eight_ndr(tree)
    tree.port("mlx5_6", state="2: INIT")
    (only,) = judged(tree).faults
    assert "no subnet manager" in only.next


def test_ports_that_are_all_down_are_unknown(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    for number in range(2):
        tree.port(f"mlx5_{number}", SDR, state="1: DOWN", physical="3: Disabled")
    verdict = judged(tree)
    assert kinds(verdict) == []
    assert [one.matters for one in verdict.not_read] == [True]


def test_a_device_that_is_gone_is_missed_only_where_most_are_there(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    for number in range(7):
        tree.port(f"mlx5_{number}")
    tree.gpus("NVIDIA B200")
    tree.kernel()
    assert kinds(judged(tree)) == [("port-missing", "node")]
    # Four for the GPUs and up to two for storage.
    for count in (4, 5, 6):
        fewer = Captured(tmp_path / str(count))
        for number in range(count):
            fewer.port(f"mlx5_{number}")
        fewer.gpus("NVIDIA B200")
        fewer.kernel()
        assert kinds(judged(fewer)) == []


@pytest.mark.parametrize(
    "storage",
    [{"rate": HDR}, {"rate": SDR, "state": "1: DOWN", "physical": "2: Polling"}],
    ids=["slow", "down"],
)
def test_ports_for_storage_on_boards_like_those_of_the_gpus_are_a_note(
    storage: dict[str, Any], tmp_path: Path
) -> None:
    tree = Captured(tmp_path)
    for number in range(8):
        tree.port(f"mlx5_{number}")
    tree.port("mlx5_8", **storage)
    tree.gpus("NVIDIA H100 80GB HBM3")
    tree.kernel()
    (found,) = judged(tree).findings
    assert (found.kind, found.action) == ("ports-beyond-gpus", Action.KEEP)
    # The same port is a fault where a GPU needs it.
    seven = replace(GROUP.read(HostTree(tree.root)), gpus=("NVIDIA H100 80GB HBM3",) * 9)
    assert [one.action for one in judge_rdma(seven).faults] == [Action.DRAIN]


def test_an_ethernet_port_without_a_carrier_is_not_called_switched_off() -> None:
    down = a_port(0, link_layer="Ethernet", state="DOWN", physical="Disabled", netdev="eth0", rate=SDR)
    others = tuple(a_port(number, link_layer="Ethernet") for number in range(1, 8))
    (found,) = judge_rdma(RdmaFacts(ports=(down, *others))).faults
    assert "NO-CARRIER" in found.next


def test_a_management_function_is_never_judged_nor_are_its_counters_read(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    b200_with_management(tree)
    tree.write("/sys/class/infiniband/mlx5_0/ports/1/counters/link_downed", "7")
    facts = GROUP.read(HostTree(tree.root))
    managing = [port for port in facts.ports if port.role is Role.MANAGEMENT]
    assert [port.device for port in managing] == ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]
    assert managing[0].counters == {}
    assert "4 management functions" in judged(tree).judged


def a_port(number: int, **fields: Any) -> RdmaPort:
    usual: dict[str, Any] = {
        "device": f"mlx5_{number}", "port": 1, "state": "ACTIVE", "physical": "LinkUp", "rate": NDR,
        "link_layer": "InfiniBand", "board": "MT_0000000838",
    }  # fmt: skip
    return RdmaPort(**usual | fields)


def test_a_down_port_that_may_be_a_management_function_is_unknown_and_no_fault() -> None:
    network = [a_port(number) for number in range(4, 12)]
    unclear = [a_port(number, board="NVD0000000054", role=Role.UNCLEAR) for number in range(3)]
    unclear.append(a_port(3, board="NVD0000000054", role=Role.UNCLEAR, state="DOWN", physical="Polling"))
    verdict = judge_rdma(RdmaFacts(ports=(*unclear, *network)))
    assert kinds(verdict) == []
    assert [(one.what, one.matters) for one in verdict.not_read] == [("mlx5_3 port 1", False)]
    assert "as root" in verdict.not_read[0].why


@pytest.mark.parametrize(
    ("driver", "kernel", "peermem", "fault", "unknown"),
    [
        (CLOSED, "5.15.0", False, True, False),
        (CLOSED, "5.15.0", True, False, False),
        ("", "5.15.0", False, False, False),
        ("NVRM version: NVIDIA UNIX Open Kernel Module", "6.8.0", False, False, False),
        ("NVRM version: NVIDIA UNIX Open Kernel Module", "4.18.0-553.el8", False, False, True),
    ],
)
def test_gpudirect_needs_a_module_or_the_open_driver(
    tmp_path: Path, driver: str, kernel: str, peermem: bool, fault: bool, unknown: bool
) -> None:
    tree = Captured(tmp_path)
    tree.port("mlx5_0")
    tree.kernel(kernel, peermem=peermem)
    if driver:
        tree.gpus("NVIDIA H100 80GB HBM3", 1, driver)
    verdict = judged(tree)
    assert [one.kind for one in verdict.faults] == ["gpudirect-not-available"] * fault
    assert [one.what for one in verdict.not_read] == ["GPUDirect RDMA"] * unknown
    assert all(
        one.action is Action.RESTART and "modprobe nvidia-peermem" in one.next for one in verdict.faults
    )


def test_one_ethernet_port_of_a_vm_needs_no_gpudirect_and_no_device_files(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    tree.port("mlx5_0", EDR, layer="Ethernet", board="MT_0000000010")
    tree.gpus("NVIDIA A100 80GB PCIe", 1, CLOSED)
    tree.kernel("5.15.0-1073-azure", peermem=False)
    tree.write("/dev/null-here", "")
    verdict = judged(tree)
    assert kinds(verdict) == []
    assert sorted(one.kind for one in verdict.notes) == ["gpudirect-not-available", "no-verbs-device"]


def test_a_module_that_old_nccl_does_not_look_for_is_a_note(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    eight_ndr(tree)
    (tree.root / "sys/kernel/mm/memory_peers/nv_mem/version").unlink()
    verdict = judged(tree)
    assert kinds(verdict) == []
    assert [one.kind for one in verdict.notes] == ["peer-module-renamed"]


def test_a_container_without_device_files_is_told(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    eight_ndr(tree)
    tree.write("/dev/null-here", "")
    assert [one.kind for one in judged(tree).faults] == ["no-verbs-device"]
    tree.write("/dev/infiniband/uverbs0", "")
    assert kinds(judged(tree)) == []


def changed(before: RdmaPort, after: RdmaPort) -> NodeVerdict:
    others = tuple(a_port(number) for number in range(1, 8))
    readings = [
        HostReading(at, RdmaFacts(ports=(port, *others))) for at, port in ((0.0, before), (60.0, after))
    ]
    assert GROUP.judge_change is not None
    return GROUP.judge_change(readings)


def test_old_counters_are_notes_and_only_their_change_is_a_fault() -> None:
    old = a_port(0, counters={"link_downed": 3, "symbol_error": 9})
    assert [one.kind for one in judge_rdma(RdmaFacts(ports=(old,))).notes] == ["links-went-down"]
    assert changed(old, old).findings == ()
    verdict = changed(old, replace(old, counters={"link_downed": 4, "symbol_error": 9}))
    assert kinds(verdict) == [("link-flapped", "mlx5_0 port 1")]
    assert verdict.faults[0].action is Action.DRAIN
    grown = changed(old, replace(old, counters={"link_downed": 3, "symbol_error": 12}))
    assert kinds(grown) == []
    assert "symbol_error +3" in grown.notes[0].found


def test_a_counter_at_its_highest_value_is_not_read_and_one_that_was_reset_is_no_fault() -> None:
    full = a_port(0, counters={"link_downed": 255})
    assert "highest value" in str(changed(full, full).not_read[0])
    assert kinds(changed(full, replace(full, counters={"link_downed": 0}))) == []


def test_an_ethernet_port_flaps_by_the_changes_of_its_carrier() -> None:
    port = a_port(0, link_layer="Ethernet", carrier_changes=2, netdev="eth0", board="other")
    assert kinds(changed(port, replace(port, carrier_changes=4))) == [("link-flapped", "mlx5_0 port 1")]
    assert [one.value for one in changed(port, port).numbers if one.metric == "rdma_link_downs"] == [0]
    # One that comes up changes its carrier too.
    assert kinds(changed(replace(port, state="DOWN"), replace(port, carrier_changes=3))) == []


def test_a_port_whose_device_vanishes_between_readings_is_named() -> None:
    ports = tuple(a_port(number) for number in range(8))
    assert GROUP.judge_change is not None
    verdict = GROUP.judge_change(
        [HostReading(0.0, RdmaFacts(ports=ports)), HostReading(9.0, RdmaFacts(ports=ports[1:]))]
    )
    assert kinds(verdict) == [("port-vanished", "mlx5_0 port 1")]


TEXT = st.text(max_size=30)


ANY_PORT = st.builds(
    RdmaPort,
    device=TEXT,
    port=st.integers(0, 9),
    state=TEXT,
    physical=TEXT,
    rate=TEXT,
    link_layer=TEXT,
    board=TEXT,
    counters=st.dictionaries(TEXT, st.integers(0, 2**64), max_size=2),
)


@given(st.lists(ANY_PORT, max_size=6))
def test_whatever_sysfs_says_is_judged(ports: list[RdmaPort]) -> None:
    judge_rdma(RdmaFacts(ports=tuple(ports)))


@given(st.integers(3, 16), st.data())
def test_ports_that_are_alike_are_never_a_fault(count: int, data: st.DataObject) -> None:
    rate = data.draw(st.sampled_from([NDR, HDR, SDR]))
    state = data.draw(st.sampled_from(["ACTIVE", "DOWN"]))
    ports = tuple(a_port(number, rate=rate, state=state, physical="Polling") for number in range(count))
    assert judge_rdma(RdmaFacts(ports=ports)).faults == ()


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "runner.probes.host_paths", "--group", "rdma", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_the_probe_reads_a_captured_tree(tmp_path: Path) -> None:
    tree = Captured(tmp_path)
    eight_ndr(tree)
    tree.port("mlx5_2", HDR)
    done = probe("--root", str(tmp_path))
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    (finding,) = document["details"]["findings"]
    assert (finding["kind"], finding["action"]) == ("port-slow", "drain")
    # What was captured elsewhere leaves no number of this host.
    assert [one["name"] for one in document["measurements"]] == ["node_faults"]
    watched = probe("--root", str(tmp_path), "--watch", "1")
    assert (watched.returncode, "does not change" in watched.stderr) == (2, True)
