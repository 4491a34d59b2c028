"""The contract of a group of NVML facts: read, judge, and what it measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from runner.node.findings import NodeVerdict
from runner.node.gpu.asking import NvmlAsker, OpenGpu

Facts = TypeVar("Facts")


@dataclass(frozen=True)
class GpuReading(Generic[Facts]):
    """The facts of a group at one moment, in seconds after the first reading."""

    at_s: float
    facts: Facts


@dataclass(frozen=True)
class NvmlFailure:
    """Why NVML does not start.

    Attributes:
        code: NVML's; None if the library is not there, or did not answer.
        text: the message.
    """

    code: int | None
    text: str


@dataclass(frozen=True)
class GpuGroup(Generic[Facts]):
    """One group of facts.

    Attributes:
        name: as in `--group`.
        read: reads the facts of all GPUs once. Does not raise for a GPU that refuses: the asker keeps the refusals.
        judge: the verdict on one reading, or on several taken under `--watch`, the oldest first. Pure.
        judge_failure: the verdict on an NVML that does not start, of the group that is about that.
        parse: the facts in a text that was pasted from another node; raises InputError if it holds none. None if the
            group reads no text.
    """

    name: str
    read: Callable[[NvmlAsker, Sequence[OpenGpu]], Facts]
    judge: Callable[[Sequence[GpuReading[Facts]]], NodeVerdict]
    judge_failure: Callable[[NvmlFailure], NodeVerdict] | None = None
    parse: Callable[[str], Facts] | None = None
