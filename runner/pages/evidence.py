"""All records, read once and kept as what pages need of them: newest results, outcomes and numbers over time. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from runner.entry.model import Runbook, Scalar
from runner.hardware.machine import Machine
from runner.history.endings import Ending, by_any_id, ending_of, home_preset
from runner.history.standing import Run, Standing, standing
from runner.history.verdict_changes import Turn, turns
from runner.record.headline import key_measurement
from runner.record.model import Measurement, Options, Record, StepResult
from runner.record.outcomes import Judged

# The machines that this knowledge base is for: always shown, and unmeasured until a record exists.
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


@dataclass(frozen=True)
class Evidence:
    """All records, looked up the ways that pages need.

    Attributes:
        finished: newest finished result of each node, the newest of all last, by (class, runbook, step, preset).
        standings: where each entry stands, by (class, runbook), from runs at the class's own preset.
        endings: how runs ended, oldest first.
        turns: changed verdicts, oldest first.
        points: key measurements, oldest first, by (class, runbook, step), at the class's own preset.
        campaigns: the records of campaigns, judged.
        classes: every machine class that is shown, GPUs first.
        presets: the preset that is a class's own.
    """

    finished: Mapping[_StepKey, tuple[Found, ...]]
    standings: Mapping[tuple[str, str], Standing]
    endings: tuple[Ending, ...]
    turns: tuple[Turn, ...]
    points: Mapping[tuple[str, str, str], tuple[Point, ...]]
    campaigns: tuple[tuple[Record, Judged | None], ...]
    classes: tuple[str, ...]
    presets: Mapping[str, str]

    def run(self, machine_class: str, runbook: str) -> Record | None:
        """The run that represents an entry on a class, or None."""
        found = self.standings.get((machine_class, runbook))
        return found.record if found else None

    def step(self, machine_class: str, runbook: str, step: str) -> Found | None:
        """The newest finished result of a step on a class, at the class's own preset."""
        nodes = self._nodes(machine_class, runbook, step)
        return nodes[-1] if nodes else None

    def nodes(self, machine_class: str, runbook: str, step: str) -> tuple[Found, ...]:
        """The newest result of each node that was taken in the same way as the newest of all, which is last."""
        nodes = self._nodes(machine_class, runbook, step)
        return tuple(found for found in nodes if found[1].digest == nodes[-1][1].digest)

    def _nodes(self, machine_class: str, runbook: str, step: str) -> tuple[Found, ...]:
        return self.finished.get((machine_class, runbook, step, self.presets.get(machine_class, "")), ())


@dataclass
class _Gathering:
    entries: Mapping[str, Runbook]
    finished: dict[_StepKey, dict[str, Found]] = field(default_factory=dict)
    runs: dict[tuple[str, str], dict[Options, Run]] = field(default_factory=dict)
    endings: list[Ending] = field(default_factory=list)
    points: dict[tuple[str, str, str], list[Point]] = field(default_factory=dict)
    campaigns: list[tuple[Record, Judged | None]] = field(default_factory=list)
    presets: dict[str, str] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        entry = self.entries.get(record.runbook.id)
        ending = ending_of(entry, record) if entry else None
        if record.campaign is not None and entry:
            self.campaigns.append((record, ending.judged if ending else None))
        machine_class = record.machine.machine_class
        runbook = entry.id if entry else record.runbook.id
        preset = self.presets.setdefault(machine_class, home_preset(record.machine))
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
        if ending is None:
            return
        self.endings.append(ending)
        if at_home:
            runs = self.runs.setdefault((machine_class, runbook), {})
            if ending.scope not in runs or runs[ending.scope][0].moment <= age:
                runs[ending.scope] = (record, ending.judged)


def gather(records: Iterable[Record], runbooks: Sequence[Runbook] = ()) -> Evidence:
    """Index records, reading each once. Simulated records are skipped: their measurements may not be shown.

    Args:
        records: in any order.
        runbooks: the entries by which runs are judged; of other entries only the numbers are kept.
    """
    found = _Gathering(by_any_id(runbooks))
    for record in records:
        if not (record.simulated or record.machine.simulated):
            found.add(record)
    return Evidence(
        finished={
            key: tuple(sorted(nodes.values(), key=lambda one: one[0].moment))
            for key, nodes in found.finished.items()
        },
        standings={
            place: stands for place, runs in found.runs.items() if (stands := standing(runs.values()))
        },
        endings=tuple(sorted(found.endings, key=lambda one: one.moment)),
        turns=turns(found.endings),
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


def _moment(one: Point) -> tuple[datetime, str]:
    return one.when, one.run_id
