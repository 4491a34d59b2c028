"""Peaks and link counts of known boards, each with its source. An unknown board has none: no guess is made."""

import re
from dataclasses import dataclass

ML_ENGINEERING = "stas00/ml-engineering, 2026-08"


@dataclass(frozen=True)
class Board:
    """One GPU board. Bandwidths in bytes per second and one direction, FLOP/s dense (no sparsity), power in watts.

    Attributes:
        memory_label_gb: the size that the board is sold and named by.
        memory_usable_bytes: what torch shows as total memory, where known.
        best_bf16, best_fp8: best matrix-product rate measured by the source.
    """

    name: str
    pattern: str
    memory_label_gb: int
    memory_usable_bytes: int | None
    memory_bandwidth: float
    nvlink_generation: int
    nvlinks: int
    nvlink_bandwidth: float
    peak_bf16: float
    peak_fp8: float
    best_bf16: float
    best_fp8: float
    max_power_w: float
    source: str = ML_ENGINEERING


BOARDS = (
    Board(
        "H100",
        r"\bH100\b.*\b(HBM3|SXM)|\bH100 80GB",
        80,
        None,
        3.35e12,
        4,
        18,
        25e9,
        989e12,
        1979e12,
        794e12,
        1403e12,
        700,
    ),
    Board(
        "H200", r"\bH200\b(?!.*NVL)", 141, None, 4.8e12, 4, 18, 25e9, 989e12, 1979e12, 794e12, 1453e12, 700
    ),
    Board(
        "B200",
        r"\bB200\b",
        180,
        int(178.35 * 2**30),
        8.0e12,
        5,
        18,
        50e9,
        2250e12,
        4500e12,
        1745e12,
        3432e12,
        1000,
    ),
)


def board_of(gpu_name: str) -> Board | None:
    """The board that NVML's product name belongs to, or None where it is not in the table."""
    return next((board for board in BOARDS if re.search(board.pattern, gpu_name)), None)


def board_named(name: str) -> Board | None:
    """The board with this short name (`B200`), or None."""
    return next((board for board in BOARDS if board.name.lower() == name.lower()), None)
