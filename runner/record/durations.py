"""Expected duration of a step on this machine: from the newest records, else a guess from its deadline."""

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import RecordError, StoreError
from runner.entry.digest import current_digests
from runner.entry.model import Runbook, Step
from runner.hardware.machine import Machine
from runner.record.model import Record, StepStatus
from runner.record.simulated import was_simulated
from runner.record.store import Store

# Without a record: a tenth of the deadline, at most 60 s.
_GUESS_SHARE, _GUESS_MOST_S = 0.1, 60.0
# Number of newest records read per class and entry; the thousands of an old campaign add no information.
_LOOK_BACK = 5


@dataclass(frozen=True)
class Expected:
    """The expected duration of a step, in seconds. `measured`: from a record; else it is a guess."""

    seconds: float
    measured: bool


def newest_records(folders: Sequence[Path], runbooks: Collection[str]) -> Iterator[Record]:
    """The newest few records of each class and entry in these data folders; unreadable files are skipped."""
    found: dict[Path, list[Path]] = defaultdict(list)
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        with contextlib.suppress(StoreError):
            for path in Store(folder).files():
                if path.parent.name in runbooks:
                    found[path.parent].append(path)
    for place, paths in found.items():
        store = Store(place.parents[1])
        for path in paths[-_LOOK_BACK:]:
            with contextlib.suppress(RecordError):
                yield store.load(path)


def expected_durations(
    runbook: Runbook, preset: str, machine: Machine, records: Iterable[Record]
) -> Mapping[str, Expected]:
    """The expected duration of each step of an entry, by step id.

    It is the duration of the newest finished run of the step at this preset, on hardware of the same kind (with or
    without GPUs). Records with the step's current digest are preferred, then records of this machine's class, then
    runs without a time limit. A step that only ever found itself not applicable on this class, or on one with as many
    GPUs, has the time that it took to say so.
    """
    digests = current_digests(runbook)
    best: dict[str, tuple[tuple[object, ...], float]] = {}
    for record in records:
        if not _speaks_of(record, runbook, preset, machine):
            continue
        for result in record.steps:
            unlike = result.simulated and not was_simulated(record)
            if result.id not in digests or result.duration_s is None or unlike:
                continue
            here = record.machine.machine_class == machine.machine_class
            alike = here or (0 < len(machine.gpus) == len(record.machine.gpus))
            if not (result.status.finished or (alike and result.status is StepStatus.SKIPPED)):
                continue
            rank = (
                result.status.finished,
                result.digest == digests[result.id],
                here,
                record.options.within is None,
                record.moment,
            )
            if result.id not in best or rank > best[result.id][0]:
                best[result.id] = (rank, result.duration_s)
    return {
        step.id: Expected(best[step.id][1], measured=True) if step.id in best else _guess(step)
        for step in runbook.steps
    }


def _speaks_of(record: Record, runbook: Runbook, preset: str, machine: Machine) -> bool:
    return (
        record.runbook.id in {runbook.id, *runbook.head.formerly}
        and record.options.preset == preset
        and bool(record.machine.gpus) == bool(machine.gpus)
        and was_simulated(record) == machine.simulated
    )


def _guess(step: Step) -> Expected:
    return Expected(min(step.timeout * _GUESS_SHARE, _GUESS_MOST_S), measured=False)
