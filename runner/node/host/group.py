"""The contract of a group of facts about the host: read and judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from runner.node.findings import NodeVerdict
from runner.node.host.tree import HostTree

HostFacts = TypeVar("HostFacts")


@dataclass(frozen=True)
class HostReading(Generic[HostFacts]):
    """One reading. `at_s`: seconds since the first one."""

    at_s: float
    facts: HostFacts


@dataclass(frozen=True)
class HostGroup(Generic[HostFacts]):
    """One group of facts.

    Attributes:
        name: as in `--group`.
        read: reads the facts of this host, or of a captured tree. Does not raise for what is missing.
        judge: the verdict. Pure.
        judge_change: the verdict on two readings or more, the first one first (`--watch`); None if nothing of this
            group is judged by its change.
    """

    name: str
    read: Callable[[HostTree], HostFacts]
    judge: Callable[[HostFacts], NodeVerdict]
    judge_change: Callable[[Sequence[HostReading[HostFacts]]], NodeVerdict] | None = None
