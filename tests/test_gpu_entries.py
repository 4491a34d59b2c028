"""Entries 12 and 15: their log lines name them first, and lines of sound nodes name neither."""

from pathlib import Path

import pytest

from runner.entry.model import Runbook
from runner.entry.read import read_runbook
from runner.entry.signatures import match_log
from tests.logs import log_of

RUNBOOKS = Path(__file__).parents[1] / "runbooks"
# Formats as in the issues that the entries name, written anew.
FAULTS = {
    "fabric-not-ready": [
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
        "node7:812:840 [2] NCCL WARN Cuda failure 802 'system not yet initialized'",
        "cudaErrorSystemNotReady returned from cudaMalloc",
        "nv-fabricmanager[912]: fabric manager NVIDIA GPU driver interface version 580.65.06 don't match with driver",
        "nv-fabricmanager[912]: fabric manager NVIDIA GPU driver interface version 590.48.01 doesn't match with",
        "query NVSwitch device information from NVSwitch driver failed with error:WARNING [NV_WARN_NOTHING_TO_DO]",
        "detected number of NVSwitches don't match with any supported system topology, aborting",
        "systemd[1]: nvidia-fabricmanager.service: Control process exited, code=exited, status=1/FAILURE",
        "systemd[1]: nvidia-fabricmanager.service: Main process exited, code=killed, status=9/KILL",
        "systemd[1]: nvidia-fabricmanager.service: Failed with result 'exit-code'.",
        "        State                             : In Progress",
        "        State                             : Not Started",
    ],
    "gpu-not-usable": [
        "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device",
        "CUDA error (/src/flash_fwd_launch_template.h:191): no kernel image is available for execution on the device",
        "NVIDIA B200 with CUDA capability sm_100 is not compatible with the current PyTorch installation.",
        "Your installed torch==2.13.0+cu126 does not include kernels for this GPU. Reinstall the same version",
        "RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.",
        "Failed to initialize NVML: Driver/library version mismatch",
        "NVML library version: 580.178",
        "[ 71.2] NVRM: API mismatch: the client has the version 580.105.08, but",
        "[ 71.2] NVRM: API mismatch: the client 'python3' (pid 4711)",
        "Failed to initialize NVML: Unknown Error",
        "Failed to initialize NVML: GPU access blocked by the operating system",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest",
        "RuntimeError: Unexpected error. Error 804: forward compatibility was attempted on non supported HW",
        "CUDA driver version is insufficient for CUDA runtime version",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).",
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown",
        "Unable to determine the device handle for GPU0000:BA:00.0: Unknown Error",
    ],
}
SOUND = (
    "        State                             : Completed",
    "        Status                            : Success",
    "systemd[1]: nvidia-fabricmanager.service: Deactivated successfully.",
    "systemd[1]: nvidia-fabricmanager.service: Main process exited, code=exited, status=0/SUCCESS",
    "systemd[1]: Started nvidia-fabricmanager.service - NVIDIA fabric manager service.",
    "nv-fabricmanager[912]: Successfully configured all the available GPUs and NVSwitches to route NVLink traffic.",
    "Job State : In Progress",
    "[ 9.1] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
    "| NVIDIA-SMI 580.95.05              Driver Version: 580.95.05      CUDA Version: 13.0     |",
    "nvidia-container-toolkit: libnvidia-ml.so.580.95.05 is mounted",
    "INFO 11-02 09:12:44 [cuda.py:1004] Using Flash Attention backend on V1 engine.",
)


@pytest.fixture(scope="module")
def every_entry() -> list[Runbook]:
    return [read_runbook(path) for path in sorted(RUNBOOKS.glob("*.md"))]


def ranked(line: str, entries: list[Runbook]) -> list[str]:
    return [one.runbook_id for one in match_log(log_of([line]), entries)]


@pytest.mark.parametrize(
    ("entry", "line"), [(entry, line) for entry, lines in FAULTS.items() for line in lines]
)
def test_a_line_of_the_fault_names_its_entry_first(entry: str, line: str, every_entry: list[Runbook]) -> None:
    assert ranked(line, every_entry)[:1] == [entry]


@pytest.mark.parametrize("line", SOUND)
def test_a_line_of_a_sound_node_names_neither(line: str, every_entry: list[Runbook]) -> None:
    assert not set(ranked(line, every_entry)) & set(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_every_signature_has_a_line(name: str) -> None:
    entry = read_runbook(RUNBOOKS / f"{name}.md")
    hits = [hit for line in FAULTS[name] for one in match_log(log_of([line]), [entry]) for hit in one.hits]
    assert {hit.pattern for hit in hits} == {one.pattern for one in entry.head.signatures}
