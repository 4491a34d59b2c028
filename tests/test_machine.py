import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runner.hardware import machine as machine_module
from runner.hardware.boards import BOARDS, board_named, board_of
from runner.hardware.machine import Machine, look, machine_class
from runner.hardware.processor import Processor
from tests.builders import a_gpu

EPYC = Processor("AMD EPYC", "x86_64", 2, "v4")


@pytest.mark.parametrize(
    ("names", "memory", "expected"),
    [
        (["NVIDIA B200"] * 8, 183_359, "8xB200-180GB"),
        (["NVIDIA H100 80GB HBM3"], 81_559, "1xH100-80GB"),
        (["NVIDIA H200"], 143_771, "1xH200-141GB"),
        (["NVIDIA Something New 9000"], 98_304, "1xSomething-New-9000-96GB"),
        (["NVIDIA B200", "NVIDIA B200", "NVIDIA H200"], 183_359, "2xB200-180GB+1xH200-141GB"),
    ],
)
def test_a_class_is_named_by_its_installed_hardware(names: list[str], memory: int, expected: str) -> None:
    gpus = tuple(a_gpu(index, name, memory * 2**20) for index, name in enumerate(names))
    assert machine_class(gpus, None, EPYC) == expected


def test_a_host_without_gpus_has_the_class_of_its_processor() -> None:
    assert machine_class((), None, EPYC) == EPYC.machine_class == "cpu-amd-epyc-x86_64-v4-2c"


def test_gpus_that_cannot_be_read_never_make_a_cpu_class() -> None:
    assert machine_class((), "NVML: driver mismatch", EPYC) == "unreadable-gpu-x86_64-2c"


def test_a_board_that_is_not_in_the_table_never_has_the_class_of_one_that_is() -> None:
    assert board_of("NVIDIA H100") is None
    assert machine_class((a_gpu(0, "NVIDIA H100", 80 * 2**30),), None, EPYC) == "1xother-H100-80GB"


def test_an_unknown_board_has_no_peak() -> None:
    assert board_of("NVIDIA GeForce RTX 4090") is None
    assert board_named("A100") is None


def test_each_board_is_found_by_its_own_short_name_and_names_its_source() -> None:
    for board in BOARDS:
        assert board_named(board.name.lower()) is board
        assert board.source


@pytest.mark.parametrize(("name", "terabytes"), [("H100", 3.352), ("H200", 4.917), ("B200", 7.672)])
def test_the_memory_bandwidth_of_a_board_follows_from_its_bus_and_its_clock(
    name: str, terabytes: float
) -> None:
    board = board_named(name)
    assert board is not None
    assert board.memory_bandwidth / 1e12 == pytest.approx(terabytes, abs=5e-4)
    assert f"{board.memory_bus_bits:,} bit" in board.memory_source
    assert f"{board.memory_clock_hz / 1e6:,.0f} MHz" in board.memory_source


def test_the_link_count_and_bandwidth_of_each_board_agree_with_its_total() -> None:
    totals = {"H100": 450e9, "H200": 450e9, "B200": 900e9}
    for board in BOARDS:
        assert board.nvlinks * board.nvlink_bandwidth == totals[board.name]


def test_looking_at_this_host_gives_facts_and_no_identifier() -> None:
    found = look()
    assert found == Machine.model_validate_json(found.model_dump_json())
    assert found.machine_class == machine_class(found.gpus, found.gpu_error, found.processor)
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert "uuid" not in found.model_dump_json().lower()


def test_looking_does_not_import_torch() -> None:
    program = "import sys; from runner.hardware.machine import look; look(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_wedged_driver_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(machine_module, "NVML_DEADLINE_S", 0.05)
    monkeypatch.setattr(machine_module, "_read_nvml", release.wait)
    found = look()
    release.set()
    assert found.gpu_error is not None
    assert "hung" in found.gpu_error
    assert found.machine_class.startswith("unreadable-gpu-")


def test_signs_of_gpus_are_device_nodes_or_nvidia_display_controllers(tmp_path: Path) -> None:
    dev, pci = tmp_path / "dev", tmp_path / "pci"
    (pci / "0000:01:00.0").mkdir(parents=True)
    dev.mkdir()
    (pci / "0000:01:00.0" / "vendor").write_text("0x8086\n")
    (pci / "0000:01:00.0" / "class").write_text("0x030000\n")
    assert not machine_module._signs_of_gpus(pci, dev)
    (pci / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    assert machine_module._signs_of_gpus(pci, dev)
    (pci / "0000:01:00.0" / "vendor").write_text("0x8086\n")
    (dev / "nvidia0").touch()
    assert machine_module._signs_of_gpus(pci, dev)
