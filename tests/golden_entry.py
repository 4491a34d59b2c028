"""A small entry and its records: all that a page can show of a step, each once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from runner.entry.digest import current_digest
from runner.entry.model import Phase, Runbook
from runner.entry.parse import parse
from runner.record.model import (
    Measurement,
    Options,
    Outcome,
    Record,
    RunbookRef,
    StepResult,
    StepStatus,
)
from tests.evidence_samples import machine, measurement, record, step

NOW = datetime(2026, 11, 4, 9, 30, tzinfo=UTC)
START = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)

TEXT = """\
---
id: small
number: 7
title: A small entry
severity: low
tags: [nccl, example]
proof: [again.wrong_elements]
expectations:
  - id: floor
    metric: busbw.bus_bandwidth
    at: {bytes: 8GiB}
    min: 100
    unit: GB/s
    on: {gpu: H100, count: 2}
    evidence: chosen
    source: a tenth below what was seen
  - id: faq-hearsay
    metric: busbw.bus_bandwidth
    at: {bytes: 8GiB}
    min: 700
    unit: GB/s
    evidence: unsourced
    source: nobody knows where from
    text: It should reach 700 GB/s.
  - id: right-again
    metric: again.wrong_elements
    max: 0
    evidence: chosen
    source: a wrong result is broken
claims:
  - id: slow
    text: Below 1 GB/s.
    evidence: reported
    source: a forum
    confirmed_if: {metric: busbw.bus_bandwidth, at: {bytes: 8GiB}, max: 1, unit: GB/s}
    contradicted_if: {metric: busbw.bus_bandwidth, at: {bytes: 8GiB}, min: 100, unit: GB/s}
  - id: nobody-looked
    text: It is the cable.
    evidence: unsourced
    source: hearsay
---

## Symptom

It is **slow**.

## By hand

```bash
nvidia-smi topo -m
```

## Root cause

Nobody knows.

## Diagnose

How fast is it?

```bash {#busbw gpus=2 timeout=30 safety=loads-device}
python -m runner.probes.collectives --op all_reduce
```

How is it wired?

```bash {#wiring}
python -m runner.probes.topology
```

## Fix

```bash {#mend safety=changes-host}
true
```

## Verify

```bash {#again}
python -m runner.probes.collectives --again
```
"""


def entry() -> Runbook:
    """The entry."""
    return parse(TEXT, Path("small.md"))


def digest(runbook: Runbook, step_id: str) -> str:
    """The digest of a step as it stands."""
    found = runbook.step(step_id)
    assert found is not None
    return current_digest(runbook, found)


def result(runbook: Runbook, step_id: str, *measurements: Measurement, **changes: object) -> StepResult:
    """A result of a step, fresh unless the changes say otherwise."""
    found = runbook.step(step_id)
    assert found is not None
    facts = {"digest": digest(runbook, step_id), "command": found.command, "started_at": START} | changes
    if found.probes:
        facts = {"probe": found.probes[0], "method_version": 1} | facts
    return step(step_id, *measurements, phase=found.phase, **facts)  # type: ignore[arg-type]


def run(runbook: Runbook, *steps: StepResult, preset: str = "tiny", **changes: object) -> Record:
    """A run of the entry."""
    facts: dict[str, object] = {
        "runbook": RunbookRef(id=runbook.id, number=runbook.head.number, title=runbook.head.title),
        "started_at": START,
        "ended_at": START + timedelta(minutes=2),
        "options": Options(preset=preset, phases=tuple(Phase)),
    }
    return record(*steps, **(facts | changes))


def wrong_elements(value: float) -> Measurement:
    """How many elements of a result are wrong."""
    return Measurement(name="wrong_elements", value=value, unit="1", statistic="sum")


def ended_as(runbook: Runbook, outcome: Outcome) -> tuple[StepResult, ...]:
    """Steps of a run that comes to this outcome by the entry as it is."""
    look = StepStatus.PASSED if outcome is Outcome.HEALTHY else StepStatus.SYMPTOM
    if outcome is Outcome.INCOMPLETE:
        look = StepStatus.ERROR
    if outcome in {Outcome.HEALTHY, Outcome.SYMPTOM, Outcome.INCOMPLETE}:
        return (result(runbook, "busbw", status=look),)
    measured = () if outcome is Outcome.DRILL_PASSED else (wrong_elements(0),)
    again = StepStatus.SYMPTOM if outcome is Outcome.NOT_FIXED else StepStatus.PASSED
    return (
        result(runbook, "busbw", status=look),
        result(runbook, "mend"),
        result(runbook, "again", *measured, status=again),
    )


def records(runbook: Runbook) -> list[Record]:
    """A host without GPUs, where much is slow, skipped or failed, and one with two H100, where one step is stale."""
    cpu = run(
        runbook,
        result(
            runbook,
            "busbw",
            measurement(4.1e8, 3.9e8, 4.0e8, 4.1e8, 4.2e8, 4.6e8, bytes=8 * 2**30),
            stdout_tail="bus bandwidth\t410 MB/s\n",
            stderr_tail="warming up\n",
            stdout_dropped_bytes=12,
        ),
        result(
            runbook, "wiring", status=StepStatus.SKIPPED, reason="no NVIDIA GPU on this host", exit_status=80
        ),
        result(
            runbook,
            "mend",
            status=StepStatus.SKIPPED,
            reason="changes the host: not allowed",
            exit_status=None,
        ),
        result(
            runbook,
            "again",
            wrong_elements(3),
            status=StepStatus.FAILED,
            reason="expectation right-again missed: again.wrong_elements is 3, expected at most 0",
        ),
        outcome=Outcome.NOT_FIXED,
    )
    gpus = run(
        runbook,
        result(
            runbook,
            "busbw",
            measurement(3.5e11, 3.4e11, 3.5e11, 3.6e11, bytes=8 * 2**30),
            measurement(1.2e11, 1.2e11, bytes=2**20),
        ),
        result(
            runbook,
            "wiring",
            Measurement(name="nvlinks_per_pair", value=18, unit="1", statistic="single"),
            digest="feedfeedfeedfeed",
        ),
        result(runbook, "mend", stdout_tail=""),
        result(runbook, "again", wrong_elements(0)),
        preset="8b",
        run_id="b1b2c3d4e5f6",
        node_alias="node-77aa00",
        machine=machine(*["NVIDIA H100 80GB HBM3"] * 2, cuda="13.0", nccl="2.27.7"),
        started_at=START + timedelta(days=2),
        outcome=Outcome.HEALTHY,
    )
    return [cpu, gpus]


def drilled(runbook: Runbook) -> list[Record]:
    """A drill on a host without GPUs; a proof on one with two H100, where a newer diagnosis found the issue."""
    node = machine(*["NVIDIA H100 80GB HBM3"] * 2)
    return [
        run(runbook, *ended_as(runbook, Outcome.DRILL_PASSED), outcome=Outcome.FIX_PROVED),
        run(
            runbook,
            *ended_as(runbook, Outcome.FIX_PROVED),
            machine=node,
            options=Options(preset="8b", phases=tuple(Phase), reproduce=True),
            run_id="proof",
            outcome=Outcome.FIX_PROVED,
        ),
        run(
            runbook,
            *ended_as(runbook, Outcome.SYMPTOM),
            machine=node,
            options=Options(preset="8b", phases=(Phase.DIAGNOSE,)),
            run_id="diagnosis",
            started_at=START + timedelta(days=1),
            outcome=Outcome.SYMPTOM,
        ),
    ]
