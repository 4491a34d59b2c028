"""A call of NVML that hangs within one group: the group is unknown by name, and the others are judged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import nvml

ROOT = Path(__file__).parents[1]
# A group that reads one thing and does not look at what was refused.
GROUP = """
import sys
from types import SimpleNamespace
from runner.hardware import nvml
from runner.node.findings import Action, NodeFinding, NodeVerdict
from runner.node.gpu.group import GpuGroup
from runner.probes.gpu_state import PROBE
nvml._CALL_S = nvml._OPENING_S = 0.5
finding = NodeFinding(kind="hot", action=Action.RESET, where="GPU 3", found="is hot", next="cool it", source="a test")
def read(asker, gpus):
    return [asker.ask("nvmlDeviceGetTemperature", gpu.handle, 0, of=gpu.where) for gpu in gpus]
def judge(readings):
    return NodeVerdict(findings=(finding,) * FAULT, judged="temperatures")
sys.modules["runner.node.gpu.clocks"] = SimpleNamespace(GROUP=GpuGroup("clocks", read, judge))
sys.exit(PROBE.main(["--group", "clocks"]))
"""


def probe(
    board: str, folder: Path, *, fault: bool = False, **variables: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", GROUP.replace("FAULT", str(fault))],
        cwd=ROOT,
        env={**os.environ, **nvml.environment(folder, nvml.EIGHT_B200 + board), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def test_a_group_that_reads_all_is_fine(tmp_path: Path) -> None:
    done = probe("temperature 45\n", tmp_path)
    assert (done.returncode, done.stderr) == (0, "no findings: temperatures\n")


def test_a_hung_call_makes_its_group_unknown_and_is_named(tmp_path: Path) -> None:
    done = probe("fail nvmlDeviceGetTemperature 9999\n", tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        "gpu_state: unknown: GPU 7: nvmlDeviceGetTemperature: no answer within 0.5 s"
    )


def test_a_fault_is_a_fault_whatever_hung_and_the_call_is_told_beside_it(tmp_path: Path) -> None:
    done = probe("fail nvmlDeviceGetTemperature 9999\n", tmp_path, fault=True)
    assert done.returncode == 1
    assert "reset: GPU 3: is hot; cool it" in done.stderr
    assert "not read: GPU 7: nvmlDeviceGetTemperature: no answer within 0.5 s" in done.stderr


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetTemperature"])
def test_a_call_that_hung_before_is_not_waited_for(tmp_path: Path, call: str) -> None:
    done = probe(f"fail {call} 9999\n", tmp_path, RUNBOOK_NVML_HUNG=call)
    assert done.returncode == 3
    assert f"{call}: did not return before" in done.stderr.splitlines()[-1]
    assert "unknown" in done.stderr or "cannot be" in done.stderr
