"""All records, read once and kept as what pages need of them: newest results, outcomes and numbers over time. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from runner.entry.model import Scalar
from runner.evidence.headline import key_measurement
from runner.evidence.record import Measurement, Outcome, Record, StepResult
from runner.hardware.machine import Machine
from runner.presets import default_preset

# The machines that this knowledge base is for: always shown, and unmeasured until a record says otherwise.
HEADLINE_CLASSES = ("8xB200-180GB",)

Found = tuple[Record, StepResult]
_StepKey = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Point:
    """A step's key measurement at one time, with what may explain a change of it.

    Attributes:
        low, high: least and greatest sample; the value itself where there is one reading.
        versions: name and version of driver, torch, CUDA and NCCL, as far as there is one.
    """

    when: datetime
    measurement: str
    labels: tuple[tuple[str, Scalar], ...]
    unit: str
    value: float
    low: float
    high: float
    digest: str
    node: str
    run_id: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """How one run ended."""

    when: datetime
    run_id: str
    node: str
    outcome: Outcome


@dataclass(frozen=True)
class Evidence:
    """All records, looked up the ways that pages need.

    Attributes:
        finished: newest finished result of each node, the newest of all last, by (class, runbook, step, preset).
        runs: newest run that came to an outcome, by (class, runbook), at the class's own preset.
        endings: how runs ended, oldest first, by (class, runbook), at the class's own preset.
        points: key measurements, oldest first, by (class, runbook, step), at the class's own preset.
        campaigns: the records of campaigns.
        classes: every machine class that is shown, GPUs first.
        presets: the preset that is a class's own.
    """

    finished: Mapping[_StepKey, tuple[Found, ...]]
    runs: Mapping[tuple[str, str], Record]
    endings: Mapping[tuple[str, str], tuple[Ending, ...]]
    points: Mapping[tuple[str, str, str], tuple[Point, ...]]
    campaigns: tuple[Record, ...]
    classes: tuple[str, ...]
    presets: Mapping[str, str]

    def step(self, machine_class: str, runbook: str, step: str) -> Found | None:
        """The newest finished result of a step on a class, at the class's own preset."""
        nodes = self._nodes(machine_class, runbook, step)
        return nodes[-1] if nodes else None

    def nodes(self, machine_class: str, runbook: str, step: str) -> tuple[Found, ...]:
        """Each node's newest result, as far as they took it the same way as the newest of all, which is last."""
        nodes = self._nodes(machine_class, runbook, step)
        return tuple(found for found in nodes if found[1].digest == nodes[-1][1].digest)

    def _nodes(self, machine_class: str, runbook: str, step: str) -> tuple[Found, ...]:
        return self.finished.get((machine_class, runbook, step, self.presets.get(machine_class, "")), ())


@dataclass
class _Gathering:
    renamed: Mapping[str, str]
    finished: dict[_StepKey, dict[str, Found]] = field(default_factory=dict)
    runs: dict[tuple[str, str], Record] = field(default_factory=dict)
    endings: dict[tuple[str, str], list[Ending]] = field(default_factory=dict)
    points: dict[tuple[str, str, str], list[Point]] = field(default_factory=dict)
    campaigns: list[Record] = field(default_factory=list)
    presets: dict[str, str] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        if record.campaign is not None:
            self.campaigns.append(record)
        machine_class = record.machine.machine_class
        runbook = self.renamed.get(record.runbook.id, record.runbook.id)
        preset = self.presets.setdefault(machine_class, default_preset(len(record.machine.gpus)))
        at_home = record.options.preset == preset
        age, versions = record.moment, _versions(record.machine)
        for result in record.steps:
            if not result.status.finished:
                continue
            nodes = self.finished.setdefault((machine_class, runbook, result.id, record.options.preset), {})
            before = nodes.get(record.node_alias)
            if before is None or before[0].moment <= age:
                nodes[record.node_alias] = (record, result)
            key = key_measurement(result) if at_home else None
            if key is not None:
                self.points.setdefault((machine_class, runbook, result.id), []).append(
                    _point(record, result, key, versions)
                )
        if record.outcome is not None and at_home:
            place = (machine_class, runbook)
            if place not in self.runs or self.runs[place].moment <= age:
                self.runs[place] = record
            ending = Ending(record.started_at, record.run_id, record.node_alias, record.outcome)
            self.endings.setdefault(place, []).append(ending)


def gather(records: Iterable[Record], renamed: Mapping[str, str] = MappingProxyType({})) -> Evidence:
    """Index records, each looked at once. Simulated ones are left out: nothing measured on them may be shown.

    Args:
        records: in any order.
        renamed: an entry's former ids → its id.
    """
    found = _Gathering(renamed)
    for record in records:
        if not (record.simulated or record.machine.simulated):
            found.add(record)
    return Evidence(
        finished={
            key: tuple(sorted(nodes.values(), key=lambda one: one[0].moment))
            for key, nodes in found.finished.items()
        },
        runs=found.runs,
        endings={key: tuple(sorted(all_, key=_moment)) for key, all_ in found.endings.items()},
        points={key: tuple(sorted(all_, key=_moment)) for key, all_ in found.points.items()},
        campaigns=tuple(found.campaigns),
        classes=tuple(
            sorted({*found.presets, *HEADLINE_CLASSES}, key=lambda name: (name.startswith("cpu-"), name))
        ),
        presets=found.presets,
    )


def _versions(machine: Machine) -> tuple[tuple[str, str], ...]:
    named = (
        ("driver", machine.driver),
        ("torch", machine.torch),
        ("CUDA", machine.cuda),
        ("NCCL", machine.nccl),
    )
    return tuple((name, version) for name, version in named if version)


def _point(
    record: Record, result: StepResult, key: Measurement, versions: tuple[tuple[str, str], ...]
) -> Point:
    return Point(
        when=record.started_at,
        measurement=key.name,
        labels=tuple(sorted(key.labels.items())),
        unit=key.unit,
        value=key.value,
        low=min(key.samples, default=key.value),
        high=max(key.samples, default=key.value),
        digest=result.digest,
        node=record.node_alias,
        run_id=record.run_id,
        versions=versions,
    )


def _moment(one: Point | Ending) -> tuple[datetime, str]:
    return one.when, one.run_id
