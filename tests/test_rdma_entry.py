"""The entry `rdma-path-degraded`: its lines are found, healthy lines are not, and its drill runs on any host."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from runner.entry.read import read_all
from runner.entry.signatures import match_log

ROOT = Path(__file__).parents[1]
ENTRIES = read_all(ROOT / "runbooks")
ENTRY = next(one for one in ENTRIES if one.id == "rdma-path-degraded")


def found(line: str) -> bool:
    """Whether this entry is the first that the line points to."""
    matches = match_log([line.encode() + b"\n"], ENTRIES)
    return bool(matches) and matches[0].runbook_id == ENTRY.id


@pytest.mark.parametrize(
    "line",
    [
        "NET/IB : Got completion from peer 10.2.0.5<33092> with error 12, opcode 0, len 0, vendor err 129 (Recv)",
        "NET/IB : Got completion from peer 10.2.0.5<33092> with status=12 opcode=129 len=524288 vendor err 129 (Recv)",
        "NET/IB: Got completion from peer 10.2.0.5<3> with status=IBV_WC_RETRY_EXC_ERR(12) opcode=IBV_WC_SEND(0)",
        "NET/IB: Got completion from peer node20<57713> with status=4 opcode=0 len=0 vendor err 81 (Send) hca mlx5_0",
        "NET/IB: Got completion from peer 10.2.0.5<3> with status=IBV_WC_REM_ACCESS_ERR(10)",
        "NCCL INFO NET/IB : GPU Direct RDMA Disabled for HCA 11 'mlx5_11'",
        "NCCL WARN NET/IB : mlx5_3:1 async fatal event on QP (0x732d78661238): local access violation work queue error",
        "mlx5_port_module_event:1131:(pid 0): Port module event[error]: module 0, Cable error, High Temperature",
        "mlx5_pcie_event:299:(pid 268269): Detected insufficient power on the PCIe slot (27W).",
        "nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context, skipping further processing",
    ],
)
def test_lines_of_a_bad_path_are_found(line: str) -> None:
    assert found(line)


@pytest.mark.parametrize(
    "line",
    [
        "NCCL INFO NET/IB : GPU Direct RDMA Enabled for HCA 0 'mlx5_0'",
        "NCCL INFO NET/Socket : GPU Direct RDMA Disabled for HCA 0 'eth0'",
        "NCCL INFO Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA",
        "NCCL WARN NET/IB : mlx5_0:1 Got async event : port active",
        "NCCL WARN NET/IB : mlx5_0:1 Got async event : client reregistration",
        "mlx5_core 0000:5c:00.0: Port module event: module 0, Cable plugged",
        "NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:10.0.0.4<0>",
    ],
)
def test_healthy_lines_are_not(line: str) -> None:
    assert not found(line)


def test_the_drill_finds_both_ports_and_changes_nothing() -> None:
    command = next(one.command for one in ENTRY.steps if one.id == "slow-port")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout.splitlines()[-1])["details"]["findings"]
    assert [(one["kind"], one["where"]) for one in findings] == [
        ("port-down", "mlx5_5 port 1"),
        ("port-slow", "mlx5_2 port 1"),
    ]
