"""Physical upper limits of metrics on known hardware. A number above its limit is a measurement error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.catalogue import metric_of
from runner.hardware.boards import Board, board_of
from runner.hardware.machine import Machine
from runner.record.model import Measurement, StepResult

# With in-switch reduction a collective moves each byte once, while the bus bandwidth formula counts up to two.
_IN_NETWORK_REDUCTION = 2.0
# Energy counters and power limits are inaccurate by a few per cent.
_POWER_SLACK = 1.05
_HALF_OR_WIDER = frozenset({"bf16", "bfloat16", "fp16", "float16", "half", "fp32", "float32", "tf32"})


@dataclass(frozen=True)
class Hardware:
    """The inputs of a ceiling: the board, the number of GPUs that the step used, and the labels of the number."""

    board: Board
    used: int
    labels: frozenset[str]


def _links(on: Hardware) -> float:
    return _IN_NETWORK_REDUCTION * on.board.nvlinks * on.board.nvlink_bandwidth


def _link_count(on: Hardware) -> float:
    return float(on.board.nvlinks)


def _matrix_rate(on: Hardware) -> float:
    wide = on.labels & _HALF_OR_WIDER
    return on.used * (on.board.peak_bf16 if wide else on.board.peak_fp8)


def _power(on: Hardware) -> float:
    return _POWER_SLACK * on.used * on.board.max_power_w


def _memory_rate(on: Hardware) -> float:
    return on.used * on.board.memory_bandwidth


# Metric -> its ceiling on known boards. Links: twice the NVLink bandwidth of a GPU in one direction, for in-network
# reduction. Matrix rates: the dense peak at the precision in the labels, or at FP8 if they name none.
CEILINGS: Mapping[str, Callable[[Hardware], float]] = MappingProxyType(
    {
        "bus_bandwidth": _links,
        "algorithm_bandwidth": _links,
        "slowest_pair": _links,
        "nvlinks_active": _link_count,
        "nvlinks_per_pair": _link_count,
        "flop_rate": _matrix_rate,
        "power": _power,
    }
)
# For metrics without an entry above, by unit.
_BY_UNIT: Mapping[str, Callable[[Hardware], float]] = MappingProxyType(
    {"B/s": _memory_rate, "FLOP/s": _matrix_rate, "W": _power}
)


def ceiling(measurement: Measurement, machine: Machine, step: StepResult) -> float | None:
    """The physical upper limit for the GPUs of a step, in the measurement's unit; None if no limit is known.

    A share is at most 1 on any hardware; memory is at most the machine's reported size.
    """
    metric = metric_of(measurement.name)
    if metric is not None and metric.kind in {"share", "flag"}:
        return 1.0
    if measurement.name in {"peak_memory", "compile_peak_rss"}:
        of_gpus = sum(gpu.memory_bytes for gpu in machine.gpus)
        return float(max(of_gpus, machine.memory_bytes))
    boards = [board_of(gpu.name) for gpu in machine.gpus]
    known = [board for board in boards if board is not None]
    if not known or len(known) < len(boards):
        return None
    find = CEILINGS.get(measurement.name) or _BY_UNIT.get(measurement.unit)
    if find is None:
        return None
    labels = frozenset(str(label).lower() for label in measurement.labels.values())
    used = step.gpus_used or len(boards)
    # Different boards in one machine: the highest limit.
    return max(find(Hardware(board, used, labels)) for board in known)
