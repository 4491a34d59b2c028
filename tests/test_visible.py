import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.hardware.visible import (
    INSTALLED_GPUS,
    USABLE_GPUS,
    InstalledGpu,
    Instance,
    VisibleDevice,
    listed,
    one_of,
    visible_devices,
)
from runner.kit.probe import Findings, base_parser
from runner.probes import nccl_env
from tests.nvml import EIGHT_B200, environment

FOUR = tuple(InstalledGpu(uuid) for uuid in ("GPU-aa01", "GPU-ab02", "GPU-ab13", "GPU-cc03"))
SLICES = tuple(Instance(10 * size, f"MIG-{size:02}-x", 6 + size, 0) for size in (1, 2))
SPLIT = (
    InstalledGpu("GPU-aa01", mig=True, instances=SLICES),
    InstalledGpu("GPU-ab02"),
    InstalledGpu("GPU-cc03", mig=True),
)
LOOK = """
import json
from runner.hardware.machine import look_both
from runner.hardware.gpus import visible_count
from runner.sizing.presets import default_preset
machine, visible = look_both()
print(json.dumps({
    "class": machine.machine_class, "error": machine.gpu_error, "hidden_by": visible.hidden_by,
    "gpus": [gpu.index for gpu in visible.gpus], "memory": [gpu.memory_bytes for gpu in visible.gpus],
    "held": visible.held, "exclusive": visible.exclusive, "preset": default_preset(visible_count()),
    "stored": machine.model_dump_json(),
}))
"""


def numbers(value: str | None, devices: tuple[InstalledGpu, ...] = FOUR) -> list[int]:
    return [one.gpu for one in visible_devices(value, devices)]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 3 , 1 ", [3, 1]),
        ("0,2,-1,1", [0, 2]),
        ("0,9,1", [0]),
        ("1,,2", [1]),
        ("0,0", []),
        ("1x,2", [1, 2]),
        ("9999999999999999999", []),
        ("GPU-cc", [3]),
        ("GPU-cc,GPU-aa01", [3, 0]),
        ("GPU-ab", []),
        ("GPU-ab1,GPU-zz,GPU-aa", [2]),
        ("GPU-a,0", []),
        ("0,GPU-cc", [0]),
        ("GPU-cc,GPU-cc0", []),
        ("gpu-cc", []),
        ("MIG-01-x", []),
    ],
)
def test_the_list_is_read_as_cuda_reads_it(value: str | None, found: list[int]) -> None:
    assert numbers(value) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, [VisibleDevice(0, SLICES[0])]),
        ("0", [VisibleDevice(0, SLICES[0])]),
        ("1", [VisibleDevice(1)]),
        ("1,0", [VisibleDevice(0, SLICES[0])]),
        ("2", []),
        ("GPU-ab02", [VisibleDevice(1)]),
        ("MIG-02", [VisibleDevice(0, SLICES[1])]),
        ("MIG-02-x,MIG-01-x", [VisibleDevice(0, SLICES[1])]),
        ("MIG-0", []),
        ("MIG-GPU-aa01/8/0", [VisibleDevice(0, SLICES[1])]),
        ("MIG-GPU-aa01/9/0", []),
    ],
)
def test_a_process_gets_one_instance_and_with_it_no_whole_gpu(
    value: str | None, found: list[VisibleDevice]
) -> None:
    assert visible_devices(value, SPLIT) == found


@given(
    st.lists(st.sampled_from(["0", "1", "3", "-1", "+2", "", " 2", "1a", "x", "GPU-aa", "GPU-ab1", "MIG-1"]))
)
def test_entries_are_those_that_torch_reads(entries: list[str]) -> None:
    cuda = pytest.importorskip("torch").cuda
    value = ",".join(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert listed(value) == [str(one) for one in cuda._parse_visible_devices()]


@given(st.text(max_size=40))
def test_any_value_shows_each_gpu_at_most_once_and_leaves_one_to_pin(value: str) -> None:
    found = numbers(value)
    assert len(set(found)) == len(found) <= len(FOUR)
    assert one_of(value).isascii()


def looked(tmp_path: Path, board: str, visible: str | None = None) -> dict[str, Any]:
    own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    asked = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=Path(__file__).parents[1],
        env=own | environment(tmp_path, board) | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("visible", "gpus", "preset", "hidden_by"),
    [
        (None, list(range(8)), "70b", None),
        ("7,6,5,4,3,2,1,0", list(range(8))[::-1], "70b", None),
        ("5", [5], "8b", "CUDA_VISIBLE_DEVICES"),
        ("GPU-stand-in-6,GPU-stand-in-2", [6, 2], "8b", "CUDA_VISIBLE_DEVICES"),
        ("", [], "tiny", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_job_is_sized_by_the_gpus_that_it_can_use_and_its_class_by_the_installed_ones(
    visible: str | None, gpus: list[int], preset: str, hidden_by: str | None, tmp_path: Path
) -> None:
    found = looked(tmp_path, EIGHT_B200, visible)
    assert (found["gpus"], found["preset"], found["hidden_by"]) == (gpus, preset, hidden_by)
    assert (found["class"], found["error"]) == ("8xB200-180GB", None)
    assert "stand-in" not in found["stored"]


def test_an_instance_has_its_own_memory_and_is_the_only_device(tmp_path: Path) -> None:
    board = EIGHT_B200 + "mig 1\ninstance 0 1000\ninstance 3 2000\ninstance 3 3000\n"
    found = looked(tmp_path, board)
    assert (found["gpus"], found["memory"], found["hidden_by"]) == ([0], [1000], "MIG")
    found = looked(tmp_path, board, "MIG-stand-in-3-1")
    assert (found["gpus"], found["memory"], found["hidden_by"]) == ([3], [3000], "CUDA_VISIBLE_DEVICES")
    assert found["class"] == "8xB200-180GB-mig"
    assert looked(tmp_path, EIGHT_B200 + "mig 1\n")["gpus"] == []


def test_gpus_in_an_excluding_compute_mode_are_not_usable_and_those_of_mps_are(tmp_path: Path) -> None:
    modes = "".join(f"compute_mode {gpu} 3\n" for gpu in range(8))
    held = "holder 0 4000000 python\nholder 1 4000001 nvidia-cuda-mps-server\ncompute_mode 2 2\n"
    found = looked(tmp_path, EIGHT_B200 + modes + held)
    assert (found["gpus"], found["held"], found["hidden_by"]) == ([1, 3, 4, 5, 6, 7], [0, 2], "compute mode")
    assert found["exclusive"] == [0, 3, 4, 5, 6, 7]
    assert looked(tmp_path, EIGHT_B200 + held.replace("compute_mode 2 2\n", ""))["held"] == []


@pytest.mark.parametrize(
    ("usable", "installed", "told"),
    [
        ("1", "8", {"gpus_usable": 1, "gpus_installed": 8}),
        ("8", "8", {}),
        (None, None, {}),
        ("some", "8", {}),
    ],
)
def test_a_document_tells_if_its_run_could_use_only_some_of_the_gpus(
    usable: str | None,
    installed: str | None,
    told: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in ((USABLE_GPUS, usable), (INSTALLED_GPUS, installed)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    probe = dataclasses.replace(
        nccl_env.PROBE,
        parser=lambda: base_parser("A probe."),
        run=lambda _: Findings(effective={"a": 1}),
        shows=None,
    )
    assert probe.main([]) == 0
    assert json.loads(capsys.readouterr().out)["effective"] == {"a": 1} | told


def test_a_plan_in_a_one_gpu_job_names_what_hides_the_other_gpus(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "plan", "nvlink-bandwidth", "--reproduce"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment(tmp_path, EIGHT_B200), "CUDA_VISIBLE_DEVICES": "GPU-stand-in-5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nvlink-bandwidth on 8xB200-180GB, preset 8b" in done.stdout
    assert "skipped: needs 8 GPUs, this run can use 1 of 8 (CUDA_VISIBLE_DEVICES)" in done.stdout
    wiring = next(line for line in done.stdout.splitlines() if " wiring " in line)
    assert "runs: " in wiring
