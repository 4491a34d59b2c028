"""The golden configuration of a fleet, drawn from the fleet itself: what most nodes have, and which nodes differ. Pure.

Nodes are compared with those that have the same GPUs, or the same processor if they have none. A setting has a majority
if at least three nodes tell it and at least two thirds of these agree (chosen here: a rollout that is half done makes
no outliers of the other half). Two nodes can only differ from each other.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from runner.hardware.machine import Machine
from runner.record.model import Record
from runner.record.redaction.placeholder import PLACEHOLDER
from runner.record.settings import machine_settings, step_settings
from runner.record.simulated import was_simulated

FEWEST_FOR_MAJORITY = 3
MAJORITY_SHARE = 2 / 3
_COUNT = re.compile(r"(?<![^+])\d+x")


@dataclass(frozen=True)
class NodeSettings:
    """The settings of one node, by name. `kind`: its hardware (`hardware_kind`)."""

    node: str
    kind: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class HeldValue:
    """A value of a setting, and the nodes that have it."""

    value: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ComparedSetting:
    """One setting over the nodes of one kind.

    Attributes:
        held: its values, the most frequent first.
        unknown: nodes on which it is not known: it was not read there, or redaction removed a part of it.
    """

    name: str
    kind: str
    held: tuple[HeldValue, ...]
    unknown: tuple[str, ...]

    @property
    def known(self) -> int:
        """How many nodes tell it."""
        return sum(len(one.nodes) for one in self.held)

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self.known + len(self.unknown)

    @property
    def equal(self) -> bool:
        """Whether all nodes that tell it agree."""
        return len(self.held) == 1

    @property
    def majority(self) -> HeldValue | None:
        """The value that most nodes have; None if too few nodes tell it, or no clear majority agrees."""
        if self.known < FEWEST_FOR_MAJORITY:
            return None
        most = self.held[0]
        return most if len(most.nodes) >= MAJORITY_SHARE * self.known else None

    @property
    def others(self) -> tuple[HeldValue, ...]:
        """The values that differ from the majority's, the rarest first; empty without a majority."""
        return tuple(reversed(self.held[1:])) if self.majority else ()

    @property
    def differing(self) -> frozenset[str]:
        """The nodes that differ from the majority."""
        return frozenset(node for one in self.others for node in one.nodes)

    @property
    def suspicion(self) -> tuple[bool, int, int, str]:
        """Sort key, the most suspicious first: a value of few nodes among many."""
        most = self.majority
        rarest = min((len(one.nodes) for one in self.held), default=0)
        return most is None, rarest, -len(most.nodes if most else ()), self.name


def hardware_kind(machine_class: str) -> str:
    """A machine class without the numbers of GPUs: a node that lost one is compared with its like."""
    return _COUNT.sub("", machine_class)


def node_settings(node: str, machine: Machine, probed: Iterable[Mapping[str, str]]) -> NodeSettings:
    """The settings of a node from the facts about it and from what its probes read; the last reading counts."""
    found = machine_settings(machine)
    for one in probed:
        found |= one
    return NodeSettings(node, hardware_kind(machine.machine_class), found)


def settings_of_records(records: Iterable[Record]) -> tuple[NodeSettings, ...]:
    """The settings of each node of a campaign, from all of its records; joint records are ignored."""
    by_node: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda one: one.moment):
        if not record.members:
            by_node[record.node_alias].append(record)
    return tuple(
        node_settings(
            node,
            taken[-1].machine,
            (
                step_settings(step, rehearsed=was_simulated(record))
                for record in taken
                for step in record.steps
            ),
        )
        for node, taken in sorted(by_node.items())
    )


def compare_settings(nodes: Iterable[NodeSettings]) -> tuple[ComparedSetting, ...]:
    """Every setting of every kind that has at least two nodes, the most suspicious first, then those that are equal."""
    by_kind: dict[str, list[NodeSettings]] = defaultdict(list)
    for node in nodes:
        by_kind[node.kind].append(node)
    compared = [
        _compared(name, kind, alike)
        for kind, alike in by_kind.items()
        if len(alike) > 1
        for name in dict.fromkeys(name for node in alike for name in node.settings)
    ]
    return tuple(sorted(compared, key=lambda one: (len(one.held) < 2, one.suspicion, one.kind)))  # noqa: PLR2004 - values


def _compared(name: str, kind: str, nodes: Sequence[NodeSettings]) -> ComparedSetting:
    held: dict[str, list[str]] = defaultdict(list)
    unknown = []
    for node in nodes:
        value = node.settings.get(name)
        if value is None or PLACEHOLDER.search(value):
            # Two texts from which redaction took different parts look alike.
            unknown.append(node.node)
        else:
            held[value].append(node.node)
    values = sorted(held.items(), key=lambda one: (-len(one[1]), one[0]))
    return ComparedSetting(
        name, kind, tuple(HeldValue(value, tuple(having)) for value, having in values), tuple(unknown)
    )


def settings_as_json(compared: Iterable[ComparedSetting]) -> list[JsonValue]:
    """For programs: one object a setting; nodes are listed by alias, except those of the majority."""
    return [
        {
            "name": one.name,
            "hardware": one.kind,
            "nodes": one.nodes,
            "majority": one.majority.value if one.majority else None,
            "equal": one.equal,
            "held": [
                {
                    "value": held.value,
                    "count": len(held.nodes),
                    "nodes": None if held is one.majority else list(held.nodes),
                }
                for held in one.held
            ],
            "unknown": list(one.unknown),
        }
        for one in compared
    ]
