import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from runner.hardware import gpus as gpus_module
from runner.hardware import nvml as nvml_module
from runner.hardware.boards import BOARDS, board_named, board_of
from runner.hardware.gpus import look_at_gpus, nvml_deadline
from runner.hardware.machine import Machine, look, look_class, machine_class
from runner.hardware.processor import Processor
from runner.hardware.topology_nvml import read_topology
from tests.builders import a_gpu

EPYC = Processor("AMD EPYC", "x86_64", 2, "v4")


@pytest.mark.parametrize(
    ("names", "memory", "expected"),
    [
        (["NVIDIA B200"] * 8, 183_359, "8xB200-180GB"),
        (["NVIDIA H100 80GB HBM3"], 81_559, "1xH100-80GB"),
        (["NVIDIA H200"], 143_771, "1xH200-141GB"),
        (["NVIDIA H100 PCIe"], 81_559, "1xH100-PCIe-80GB"),
        (["NVIDIA H100 NVL"] * 2, 95_830, "2xH100-NVL-94GB"),
        (["NVIDIA B300 SXM6 AC"] * 8, 275_040, "8xB300-288GB"),
        (["NVIDIA GB200"] * 4, 189_471, "4xGB200-185GB"),
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


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 96GB HBM3",
        "NVIDIA H100 64GB HBM2",
        "NVIDIA H100",
        "NVIDIA GH200 480GB",
        "NVIDIA H200 NVL",
        "NVIDIA GB300",
    ],
)
def test_a_board_of_another_size_or_memory_is_not_taken_for_a_known_one(name: str) -> None:
    assert board_of(name) is None


@pytest.mark.parametrize(
    ("name", "nvml_mib", "product"),
    [
        ("H100", 81_559, "NVIDIA H100 80GB HBM3"),
        ("H100-PCIe", 81_559, "NVIDIA H100 80GB HBM2e"),
        ("H100-NVL", 95_830, "NVIDIA H100 NVL"),
        ("H200", 143_771, "NVIDIA H200"),
        ("B200", 183_359, "NVIDIA B200"),
        ("B300", 275_040, "NVIDIA B300 SXM6 AC"),
    ],
)
def test_torch_can_use_a_little_less_than_the_driver_shows(name: str, nvml_mib: int, product: str) -> None:
    board = board_named(name)
    assert board is not None
    assert board_of(product) is board
    assert 0.985 < board.memory_usable_bytes / (nvml_mib * 2**20) < 1
    # A machine of that size passes the check of a record.
    assert abs(nvml_mib * 2**20 - board.memory_label_gb * 1e9) < 0.25 * board.memory_label_gb * 1e9


def test_each_board_is_found_by_its_own_short_name_and_names_its_source() -> None:
    for board in BOARDS:
        assert board_named(board.name.lower()) is board
        assert board.source


@pytest.mark.parametrize(
    ("name", "terabytes"),
    [
        ("H100", 3.352),
        ("H100-PCIe", 2.039),
        ("H100-NVL", 3.939),
        ("H200", 4.917),
        ("B200", 7.672),
        ("B300", 7.672),
    ],
)
def test_the_memory_bandwidth_of_a_board_follows_from_its_bus_and_its_clock(
    name: str, terabytes: float
) -> None:
    board = board_named(name)
    assert board is not None
    assert board.memory_bandwidth / 1e12 == pytest.approx(terabytes, abs=5e-4)
    assert f"{board.memory_bus_bits:,} bit" in board.memory_source
    assert f"{board.memory_clock_hz / 1e6:,.0f} MHz" in board.memory_source


def test_the_link_count_and_bandwidth_of_each_board_agree_with_its_total() -> None:
    totals = {
        "H100": 450e9,
        "H100-PCIe": 300e9,
        "H100-NVL": 300e9,
        "H200": 450e9,
        "B200": 900e9,
        "B300": 900e9,
    }
    for board in BOARDS:
        assert board.nvlinks * board.nvlink_bandwidth == totals[board.name]


def test_looking_at_this_host_gives_facts_and_no_identifier() -> None:
    found = look()
    assert found == Machine.model_validate_json(found.model_dump_json())
    assert found.machine_class == machine_class(found.gpus, found.gpu_error, found.processor)
    assert found.cores >= 1
    assert found.memory_bytes > 2**28
    assert "uuid" not in found.model_dump_json().lower()


def test_the_memory_of_this_host_is_what_the_system_reports() -> None:
    assert look().memory_bytes == psutil.virtual_memory().total


def test_the_class_alone_is_that_of_the_whole_look() -> None:
    assert look_class() == look().machine_class


def test_nvml_is_not_imported_where_its_library_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_module, "_LIBRARY", "libnvidia-ml-of-no-host.so.1")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert look_at_gpus().gpus == ()
    assert read_topology() is None


def test_looking_does_not_import_torch() -> None:
    program = "import sys; from runner.hardware.machine import look; look(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_wedged_driver_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(gpus_module, "nvml_deadline", lambda: 0.05)
    monkeypatch.setattr(gpus_module, "_read", release.wait)
    found = look()
    release.set()
    assert found.gpu_error is not None
    assert "hung" in found.gpu_error
    assert found.machine_class.startswith("unreadable-gpu-")


def test_nvml_gets_more_time_where_more_gpus_may_have_to_be_started(tmp_path: Path) -> None:
    alone = nvml_deadline(tmp_path)
    for index in range(8):
        (tmp_path / f"nvidia{index}").touch()
    (tmp_path / "nvidiactl").touch()
    assert nvml_deadline(tmp_path) == alone + 40


def test_a_library_that_fails_in_any_way_is_an_error_of_its_own_and_not_a_hung_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise OSError("bad file")

    monkeypatch.setattr(gpus_module, "_read", broken)
    found = look()
    assert found.gpu_error == "NVML: OSError: bad file"
    assert found.machine_class.startswith("unreadable-gpu-")


def test_signs_of_gpus_are_device_nodes_or_nvidia_display_controllers(tmp_path: Path) -> None:
    dev, pci = tmp_path / "dev", tmp_path / "pci"
    (pci / "0000:01:00.0").mkdir(parents=True)
    dev.mkdir()
    (pci / "0000:01:00.0" / "vendor").write_text("0x8086\n")
    (pci / "0000:01:00.0" / "class").write_text("0x030000\n")
    assert not gpus_module._signs_of_gpus(pci, dev)
    (pci / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    assert gpus_module._signs_of_gpus(pci, dev)
    (pci / "0000:01:00.0" / "vendor").write_text("0x8086\n")
    (dev / "nvidia0").touch()
    assert gpus_module._signs_of_gpus(pci, dev)


@pytest.mark.parametrize(
    ("name", "gib"),
    [("H100", 79.10), ("H100-PCIe", 79.11), ("H100-NVL", 93.02), ("H200", 139.72), ("B200", 178.35)],
)
def test_a_plan_counts_no_memory_that_the_driver_of_some_nodes_keeps(name: str, gib: float) -> None:
    # The least that torch's messages of that board give as its total.
    board = board_named(name)
    assert board is not None
    assert board.memory_usable_bytes <= gib * 2**30
