"""Peaks and link counts of known boards, each with its source. There are no guesses for an unknown board."""

import re
from dataclasses import dataclass

ML_ENGINEERING = "stas00/ml-engineering, 2026-08"
ARCHITECTURES = (
    "NVIDIA, CUDA Toolkit, Driver, and Architecture Matrix: Hopper has 9.0 and came with CUDA 11.8 (driver branch "
    "520), Blackwell has 10.0 and 10.3 and came with CUDA 12.8 (570)"
)
# Data moves on both edges of the memory clock.
_TRANSFERS_PER_CLOCK = 2


@dataclass(frozen=True)
class Board:
    """One GPU board. Bandwidth in bytes per second in one direction, FLOP/s dense (no sparsity), power in watts.

    Attributes:
        memory_label_gb: the nominal size, as in the product name.
        bridged: NVLinks end at bridges to one neighbour, which are optional, and not at switches.
        memory_usable_bytes: the lowest total found that torch reports; it differs by driver, and NVML's is higher.
        memory_bus_bits, memory_clock_hz: width and highest clock of the memory interface, as the driver reports them.
        memory_source: the source of those two.
        peak_bf16, peak_fp8: of the data sheet, in FLOP/s without sparsity.
        compute_capability, oldest_driver: of its architecture (`ARCHITECTURES`); oldest_driver is a driver branch.
        source: the source of every other number.
    """

    name: str
    pattern: str
    memory_label_gb: int
    memory_usable_bytes: int
    memory_bus_bits: int
    memory_clock_hz: float
    memory_source: str
    nvlink_generation: int
    nvlinks: int
    nvlink_bandwidth: float
    peak_bf16: float
    peak_fp8: float
    max_power_w: float
    compute_capability: str
    oldest_driver: int
    source: str = ML_ENGINEERING
    bridged: bool = False

    @property
    def memory_bandwidth(self) -> float:
        """Peak of the memory interface, bytes per second: bus width ÷ 8 × clock × 2 transfers a clock."""
        return self.memory_bus_bits / 8 * self.memory_clock_hz * _TRANSFERS_PER_CLOCK

    @property
    def kind(self) -> str:
        """The board in a machine class: `B200-180GB`."""
        return f"{self.name}-{self.memory_label_gb}GB"


BOARDS = (
    Board(
        name="H100",
        # Others have less bandwidth or other sizes: `H100 PCIe`, `H100 80GB HBM2e`, `H100 NVL`, boards of 64 to 96 GB.
        pattern=r"\bH100 80GB HBM3\b|\bH100[ -]SXM5?[ -]80GB\b",
        memory_label_gb=80,
        # Of NVML's 81,559 MiB; torch's messages give 79.10 to 79.21 GiB, by driver.
        memory_usable_bytes=int(79.10 * 2**30),
        memory_bus_bits=5120,
        memory_clock_hz=2619e6,
        # 3.352 TB/s; NVIDIA's data sheet of the H100 SXM states 3.35.
        memory_source="the driver's 5,120 bit × 2,619 MHz × 2",
        nvlink_generation=4,
        nvlinks=18,
        nvlink_bandwidth=25e9,
        peak_bf16=989e12,
        peak_fp8=1979e12,
        max_power_w=700,
        compute_capability="9.0",
        oldest_driver=520,
    ),
    Board(
        name="H100-PCIe",
        pattern=r"\bH100 PCIe\b|\bH100 80GB HBM2e\b",
        memory_label_gb=80,
        # Of NVML's 81,559 MiB; torch's messages give 79.11 to 79.19 GiB.
        memory_usable_bytes=int(79.10 * 2**30),
        memory_bus_bits=5120,
        memory_clock_hz=1593e6,
        # 2.039 TB/s; NVIDIA's data sheet states 2.
        memory_source="NVIDIA's data sheet, 5,120 bit, and the driver's clock: 5,120 bit × 1,593 MHz × 2",
        nvlink_generation=4,
        # Three bridges to one neighbour, of four links each.
        nvlinks=12,
        nvlink_bandwidth=25e9,
        peak_bf16=756e12,
        peak_fp8=1513e12,
        max_power_w=350,
        compute_capability="9.0",
        oldest_driver=520,
        bridged=True,
    ),
    Board(
        name="H100-NVL",
        pattern=r"\bH100 NVL\b",
        memory_label_gb=94,
        # Of NVML's 95,830 MiB; torch's messages give 93.02 to 93.10 GiB.
        memory_usable_bytes=int(93.02 * 2**30),
        memory_bus_bits=6016,
        memory_clock_hz=2619e6,
        # 3.939 TB/s; NVIDIA's data sheet states 3.9.
        memory_source="NVIDIA's product brief PB-11773-001 (2024-03): 6,016 bit × 2,619 MHz × 2",
        nvlink_generation=4,
        nvlinks=12,
        nvlink_bandwidth=25e9,
        peak_bf16=835.5e12,
        peak_fp8=1670.5e12,
        max_power_w=400,
        compute_capability="9.0",
        oldest_driver=520,
        source="NVIDIA, H100 NVL data sheet; half of its rates, which are with sparsity",
        bridged=True,
    ),
    Board(
        name="H200",
        pattern=r"\bH200\b(?!.*NVL)",
        memory_label_gb=141,
        # Of NVML's 143,771 MiB; torch's messages give 139.72 to 139.81 GiB, by driver.
        memory_usable_bytes=int(139.72 * 2**30),
        memory_bus_bits=6144,
        memory_clock_hz=3201e6,
        # 4.917 TB/s; NVIDIA's data sheet states 4.8, less than the interface can do.
        memory_source="the driver's 6,144 bit × 3,201 MHz × 2",
        nvlink_generation=4,
        nvlinks=18,
        nvlink_bandwidth=25e9,
        peak_bf16=989e12,
        peak_fp8=1979e12,
        max_power_w=700,
        compute_capability="9.0",
        oldest_driver=520,
    ),
    Board(
        name="B200",
        pattern=r"\bB200\b",
        memory_label_gb=180,
        memory_usable_bytes=int(178.35 * 2**30),
        memory_bus_bits=7680,
        memory_clock_hz=3996e6,
        # 7.672 TB/s; NVIDIA's data sheet states 7.7. The often cited 8 TB/s needs a bus of 8,192 bit.
        memory_source="the driver's 7,680 bit × 3,996 MHz × 2 (pytorch/ao #4002, 2026-03)",
        nvlink_generation=5,
        nvlinks=18,
        nvlink_bandwidth=50e9,
        peak_bf16=2250e12,
        peak_fp8=4500e12,
        max_power_w=1000,
        compute_capability="10.0",
        oldest_driver=570,
    ),
    Board(
        name="B300",
        pattern=r"\bB300\b",
        memory_label_gb=288,
        # Of NVML's 275,040 MiB; torch's messages give 267.69 GiB.
        memory_usable_bytes=int(267.69 * 2**30),
        memory_bus_bits=7680,
        memory_clock_hz=3996e6,
        memory_source="the driver's 7,680 bit × 3,996 MHz × 2 on a B300 SXM6 AC, driver 580",
        nvlink_generation=5,
        nvlinks=18,
        nvlink_bandwidth=50e9,
        peak_bf16=2250e12,
        peak_fp8=4500e12,
        max_power_w=1100,
        compute_capability="10.3",
        oldest_driver=570,
        source="NVIDIA, aiconfigurator, systems/b300_sxm.yaml, 2026",
    ),
)


def board_of(gpu_name: str) -> Board | None:
    """The board with this NVML product name, or None if it is not in the table."""
    return next((board for board in BOARDS if re.search(board.pattern, gpu_name)), None)


def board_named(name: str) -> Board | None:
    """The board with this short name (`B200`), or None."""
    return next((board for board in BOARDS if board.name.lower() == name.lower()), None)
