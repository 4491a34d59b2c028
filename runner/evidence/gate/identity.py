"""What two records may not share: a run is published once, and no clock gives the same readings twice."""

from collections.abc import Iterator
from datetime import UTC

from runner.evidence.record import Measurement, Record, StepResult

# Read off a clock or a counter: to all digits, no two runs agree in several of them. Bytes, counts and what is computed
# from a seed may well repeat.
_READ = frozenset({"s", "B/s", "FLOP/s", "token/s", "token/J", "J", "J/token", "W"})
_FEWEST = 5


def identities(record: Record) -> Iterator[tuple[tuple[object, ...], str]]:
    """What no other record may have, as a key, and how to say so; one run at a time holds a node."""
    yield ("run", record.run_id), "the run id of"
    started = record.started_at.astimezone(UTC).isoformat()
    where = (record.node_alias, record.machine.machine_class, record.runbook.id)
    yield ("start", *where, started), "node, entry and start of"
    for key, step in readings(record):
        yield key, f"in step {step.id} exactly the readings of"


def readings(record: Record) -> Iterator[tuple[tuple[object, ...], StepResult]]:
    """The readings of each step as a whole, and of each measurement, in no order: those that none other can have."""
    for step in record.steps:
        timed = [one for one in step.measurements if one.unit in _READ]
        vectors = {tuple(sorted(_values(one))) for one in timed}
        vectors.add(tuple(sorted(value for one in timed for value in _values(one))))
        for vector in sorted(vectors):
            if len(set(vector)) >= _FEWEST:
                yield ("readings", *vector), step


def _values(measurement: Measurement) -> tuple[float, ...]:
    return measurement.samples or (measurement.value,)
