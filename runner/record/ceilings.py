"""Physical upper limits of metrics on known hardware. A number above its limit is a measurement error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.hardware.boards import Board, board_of
from runner.hardware.machine import Machine
from runner.record.model import Measurement, StepResult
from runner.vocabulary import metric_of
from runner.vocabulary.model import Ceiling

# With in-switch reduction a collective moves each byte once, while the bus bandwidth formula counts up to two.
_IN_NETWORK_REDUCTION = 2.0
# Energy counters and power limits are inaccurate by a few per cent.
_POWER_SLACK = 1.05
_HALF_OR_WIDER = frozenset({"bf16", "bfloat16", "fp16", "float16", "half", "fp32", "float32", "tf32"})


@dataclass(frozen=True)
class _OnBoard:
    """The inputs of a ceiling: the board, the number of GPUs that the step used, and the labels of the number."""

    board: Board
    used: int
    labels: frozenset[str]


def _links(on: _OnBoard) -> float:
    return _IN_NETWORK_REDUCTION * on.board.nvlinks * on.board.nvlink_bandwidth


def _link_count(on: _OnBoard) -> float:
    return float(on.board.nvlinks)


def _matrix_rate(on: _OnBoard) -> float:
    wide = on.labels & _HALF_OR_WIDER
    return on.used * (on.board.peak_bf16 if wide else on.board.peak_fp8)


def _power(on: _OnBoard) -> float:
    return _POWER_SLACK * on.used * on.board.max_power_w


def _memory_rate(on: _OnBoard) -> float:
    return on.used * on.board.memory_bandwidth


# Links: twice the NVLink bandwidth of a GPU in one direction, for in-network reduction. Matrix rates: the dense peak at
# the precision in the labels, or at FP8 if they name none.
_CEILINGS: Mapping[Ceiling, Callable[[_OnBoard], float]] = MappingProxyType(
    {
        "links": _links,
        "link_count": _link_count,
        "matrix_rate": _matrix_rate,
        "power": _power,
        "memory_rate": _memory_rate,
    }
)
# For metrics that declare none, by unit.
_BY_UNIT: Mapping[str, Ceiling] = MappingProxyType(
    {"B/s": "memory_rate", "FLOP/s": "matrix_rate", "W": "power"}
)


def ceiling(measurement: Measurement, machine: Machine, step: StepResult) -> float | None:
    """The physical upper limit for the GPUs of a step, in the measurement's unit; None if no limit is known.

    A share is at most 1 on any hardware; memory is at most the machine's reported size.
    """
    metric = metric_of(measurement.name)
    if metric is not None and metric.kind in {"share", "flag"}:
        return 1.0
    declared = (metric.ceiling if metric else None) or _BY_UNIT.get(measurement.unit)
    if declared == "memory":
        of_gpus = sum(gpu.memory_bytes for gpu in machine.gpus)
        return float(max(of_gpus, machine.memory_bytes))
    boards = [board_of(gpu.name) for gpu in machine.gpus]
    known = [board for board in boards if board is not None]
    if declared is None or not known or len(known) < len(boards):
        return None
    labels = frozenset(str(label).lower() for label in measurement.labels.values())
    used = step.gpus_used or len(boards)
    # Different boards in one machine: the highest limit.
    return max(_CEILINGS[declared](_OnBoard(board, used, labels)) for board in known)
