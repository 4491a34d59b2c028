"""Properties that no two records may share: a run is published once, and clock readings do not repeat exactly."""

from collections.abc import Iterator
from datetime import UTC

from runner.record.model import Measurement, Record, StepResult

# Readings of a clock or a counter: two runs never agree in several of them to all digits. Byte sizes, counts and
# values computed from a seed can repeat.
_READ = frozenset({"s", "B/s", "FLOP/s", "token/s", "token/J", "J", "J/token", "W"})
_FEWEST = 5


def identities(record: Record) -> Iterator[tuple[tuple[object, ...], str]]:
    """Keys that no other record may have, each with its description; a node executes one run at a time."""
    yield ("run", record.run_id), "the run id of"
    started = record.started_at.astimezone(UTC).isoformat()
    where = (record.node_alias, record.machine.machine_class, record.runbook.id)
    yield ("start", *where, started), "node, entry and start of"
    for key, step in readings(record):
        yield key, f"in step {step.id} exactly the readings of"


def readings(record: Record) -> Iterator[tuple[tuple[object, ...], StepResult]]:
    """The readings of each step as a whole and of each measurement, unordered: no other record can have the same."""
    for step in record.steps:
        timed = [one for one in step.measurements if one.unit in _READ]
        vectors = {tuple(sorted(_values(one))) for one in timed}
        vectors.add(tuple(sorted(value for one in timed for value in _values(one))))
        for vector in sorted(vectors):
            if len(set(vector)) >= _FEWEST:
                yield ("readings", *vector), step


def _values(measurement: Measurement) -> tuple[float, ...]:
    return measurement.samples or (measurement.value,)
