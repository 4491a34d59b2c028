"""Log lines of NCCL, the driver and serving engines, and the signatures of entries 2 and 3 that they belong to."""

import re
from pathlib import Path

import pytest

from runner.entry.model import Runbook
from runner.entry.read import read_runbook
from runner.entry.signatures import match_log, portable
from tests.logs import log_of

RUNBOOKS = Path(__file__).parents[1] / "runbooks"

# One line of a fault for each signature, in the form that the program of the field prints it, and what it means.
FAULTS = {
    "nvlink-bandwidth": [
        ("gpu17:4711:4790 [0] NCCL INFO NCCL_P2P_DISABLE set by environment to 1", "not to use peer access"),
        (
            "gpu17:4711:4790 [3] graph/paths.cc:401 NCCL WARN P2P is disabled between NVLINK connected GPUs 3 and 5.",
            "reports no peer access",
        ),
        ("gpu17:4711:4790 [0] NCCL INFO Channel 02/0 : 0[0] -> 1[1] via SHM/direct/direct", "host memory"),
        (
            "gpu17:4711:4790 [0] NCCL INFO NCCL_P2P_LEVEL set by environment to LOC",
            "switches peer access off",
        ),
        (
            "nv-fabricmanager[912]: fabric manager NVIDIA GPU driver interface version 580.65.06 don't match",
            "Fabric Manager does not start",
        ),
        ("[ 8123.4] NVRM: Xid (PCI:0000:9d:00): 74, pid='<unknown>', name=<unknown>", "an NVLink error"),
        ("RuntimeError: CUDA error: system not yet initialized", "fabric is not up"),
        (
            "pod-3:41:98 [0] NCCL INFO comm 0x5581 rank 3 nRanks 8 nNodes 8 localRanks 1 localRank 0 MNNVL 0",
            "one GPU per node",
        ),
        ("gpu17:4711:4790 [0] NCCL INFO NCCL_NVLS_ENABLE set by environment to 0.", "was told not to reduce"),
        ("gpu17:4711:4790 [0] NCCL INFO NVLS multicast support is not available on dev 0", "cannot reduce"),
        ("gpu17:4711:4790 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 1.", "InfiniBand or RoCE"),
        (
            "gpu17:4711:4790 [0] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [send] via NET/Socket/0",
            "exchange data over IP sockets",
        ),
        ("gpu17:4711:4790 [0] NCCL INFO NET/Socket : Using [0]eth0:192.0.2.7<0>", "network is IP sockets"),
    ],
    "single-gpu-rollback": [
        (
            "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/8 clients joined.",
            "waited for ranks that never started",
        ),
        (
            "ValueError: env:// rendezvous: environment variable RANK expected, but not set",
            "only some of a distributed launch's variables",
        ),
        ("skipping cudagraphs due to mutated inputs (1 instances)", "without CUDA graphs"),
        ("INFO 11-02 09:12:44 [vllm.py:1081] Cudagraph is disabled under eager mode", "--enforce-eager"),
        ("RuntimeError: CUDA error: invalid device ordinal", "a GPU that is not visible"),
        (
            "[2026-11-02 09:12:44] Decode batch, #running-req: 4, #token: 2048, cuda graph: False, gen throughput",
            "without a CUDA graph",
        ),
    ],
}
HEALTHY = {
    "nvlink-bandwidth": [
        "gpu17:4711:4790 [0] NCCL INFO NCCL_P2P_DISABLE set by environment to 0",
        "gpu17:4711:4790 [0] NCCL INFO NCCL_P2P_LEVEL set by environment to NVL",
        "gpu17:4711:4790 [0] NCCL INFO P2P is disabled between connected GPUs 3 and 5.",
        "gpu17:4711:4790 [0] NCCL INFO Channel 02/0 : 0[0] -> 1[1] via P2P/CUMEM",
        "gpu17:4711:4790 [0] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [send] via NET/IB/0/GDRDMA",
        "gpu17:4711:4790 [0] NCCL INFO comm 0x5581 rank 3 nRanks 8 nNodes 1 localRanks 8 localRank 3 MNNVL 0",
        "gpu17:4711:4790 [0] NCCL INFO comm 0x5581 rank 3 nRanks 16 nNodes 2 localRanks 8 localRank 3 MNNVL 0",
        "gpu17:4711:4790 [0] NCCL INFO comm 0x5581 rank 0 nRanks 1 nNodes 1 localRanks 1 localRank 0 MNNVL 0",
        "gpu17:4711:4790 [0] NCCL INFO NVLS multicast support is available on dev 0 (NVLS_NCHANNELS 24)",
        "gpu17:4711:4790 [0] NCCL INFO NCCL_NVLS_ENABLE set by environment to 1.",
        "gpu17:4711:4790 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 0.",
        "gpu17:4711:4790 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:192.0.2.7<0>",
        "nv-fabricmanager[912]: Successfully configured all the available NVSwitches to route GPU NVLink traffic.",
        "[ 8123.4] NVRM: Xid (PCI:0000:9d:00): 13, pid=4711, name=python, Graphics Exception",
    ],
    "single-gpu-rollback": [
        "INFO 11-02 09:12:44 [gpu_model_runner.py:3001] Graph capturing finished in 21 secs, took 1.10 GiB",
        "[2026-11-02 09:12:44] Decode batch, #running-req: 4, #token: 2048, cuda graph: True, gen throughput",
        "[2026-11-02 09:12:44] Prefill batch, #new-seq: 1, #new-token: 64, cuda graph: False",
        "Setting OMP_NUM_THREADS environment variable for each process to be 8 in default",
        # torchrun prints this as it starts any job of several ranks.
        "Setting OMP_NUM_THREADS environment variable for each process to be 1 in default, to avoid",
    ],
}
EVERY_FAULT = [(entry, line, means) for entry, lines in FAULTS.items() for line, means in lines]
EVERY_HEALTHY = [(entry, line) for entry, lines in HEALTHY.items() for line in lines]


def entry_named(name: str) -> Runbook:
    return read_runbook(RUNBOOKS / f"{name}.md")


@pytest.mark.parametrize(("entry", "line", "means"), EVERY_FAULT)
def test_a_line_of_a_fault_matches_one_signature_which_says_what_it_means(
    entry: str, line: str, means: str
) -> None:
    matched = [
        one
        for one in entry_named(entry).head.signatures
        if re.search(portable(one.pattern).encode(), line.encode())
    ]
    assert len(matched) == 1
    assert means in (matched[0].means or "")


@pytest.mark.parametrize(("entry", "line"), EVERY_HEALTHY)
def test_a_healthy_line_beside_it_matches_none(entry: str, line: str) -> None:
    assert match_log(log_of([line]), [entry_named(entry)]) == ()


@pytest.mark.parametrize("entry", FAULTS)
def test_every_signature_has_a_line(entry: str) -> None:
    signatures = entry_named(entry).head.signatures
    assert all(one.means for one in signatures)
    assert len(signatures) == len(FAULTS[entry])


@pytest.mark.parametrize("xid", [74, 144, 145, 149, 150])
def test_each_nvlink_xid_matches_the_entry(xid: int) -> None:
    line = f"[ 8123.4] NVRM: Xid (PCI:0000:9d:00): {xid}, RLW_RXPIPE Nonfatal XC0 i0 Link 13 (0x0409a0c2 0x00000008)"
    assert match_log(log_of([line]), [entry_named("nvlink-bandwidth")])


@pytest.mark.parametrize("xid", [7, 13, 31, 143, 151])
def test_an_xid_of_another_part_does_not_match(xid: int) -> None:
    line = f"[ 8123.4] NVRM: Xid (PCI:0000:9d:00): {xid}, pid=4711, name=python3"
    assert match_log(log_of([line]), [entry_named("nvlink-bandwidth")]) == ()
