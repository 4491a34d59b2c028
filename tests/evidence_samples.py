"""Builders for the evidence tests: machines, measurements, steps, records and runbooks with telling defaults."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runner.entry.model import Claim, Expectation, FrontMatter, Phase, ProofItem, Runbook, Section, Step
from runner.hardware.gpus import Gpu
from runner.hardware.machine import Machine, machine_class
from runner.hardware.processor import Processor
from runner.record.model import (
    Code,
    Measurement,
    Options,
    Outcome,
    Record,
    RunbookRef,
    StepResult,
    StepStatus,
)
from runner.record.redaction.redact import redact_head, redact_step

B200 = "NVIDIA B200"
STARTED = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)
# What a step has that was not given a time of its own.
_AT_ONCE = STARTED + timedelta(milliseconds=1)


def machine(*names: str, **changes: Any) -> Machine:
    """A host with these GPUs, or without any."""
    gpus = tuple(Gpu(index=index, name=name, memory_bytes=180 * 10**9) for index, name in enumerate(names))
    facts: dict[str, Any] = {
        "machine_class": machine_class(gpus, None, Processor("Example CPU", "x86_64", 2)),
        "gpus": gpus,
        "gpu_error": None,
        "driver": "580.95.05" if names else None,
        "cpu": "Example CPU",
        "cores": 2,
        "arch": "x86_64",
        "memory_bytes": 8 * 2**30,
        "os": "Example Linux 12",
        "kernel": "6.1.0",
        "python": "3.11.2",
        "torch": "2.13.0",
        "cuda": None,
        "nccl": None,
        "load": 0.1,
        "simulated": False,
    }
    return Machine(**(facts | changes))


def measurement(value: float, *samples: float, name: str = "bus_bandwidth", **labels: Any) -> Measurement:
    """A measurement in B/s: the median of its samples where there are any."""
    return Measurement(
        name=name,
        labels=labels,
        value=value,
        unit="B/s",
        statistic="median" if samples else "single",
        samples=samples,
    )


def step(
    step_id: str = "busbw",
    *measurements: Measurement,
    phase: Phase = Phase.DIAGNOSE,
    status: StepStatus = StepStatus.PASSED,
    **changes: Any,
) -> StepResult:
    """A step that ran; one that measured has a probe. A start that is left out here is moved into its run."""
    probe = {"probe": "collectives", "method_version": 2} if measurements else {}
    return StepResult.model_validate(
        {
            "id": step_id,
            "phase": phase,
            "command": "true",
            "digest": "0123456789abcdef",
            "status": status,
            "exit_status": 0,
            "started_at": _AT_ONCE if StepStatus(status).finished else None,
            "duration_s": 1.0 if StepStatus(status).finished else None,
            "measurements": measurements,
        }
        | probe
        | changes
    )


def record(*steps: StepResult, **changes: Any) -> Record:
    """A healthy run of one entry on a host without GPUs; its steps start when it does."""
    started = changes.get("started_at", STARTED)
    if started != STARTED:
        steps = tuple(_moved(one, started) for one in steps)
    fields: dict[str, Any] = {
        "run_id": "a1b2c3d4e5f6",
        "node_alias": "node-3fa9c1",
        "runbook": RunbookRef(id="nvlink", number=2, title="NVLink bandwidth"),
        "code": Code(commit="c" * 40, dirty=False, package="1" * 64, entries="2" * 64),
        "machine": machine(),
        "started_at": STARTED,
        "ended_at": datetime(2026, 11, 1, 8, 1, tzinfo=UTC),
        "options": Options(preset="tiny", phases=tuple(Phase)),
        "steps": steps,
        "outcome": Outcome.HEALTHY,
    }
    return Record(**(fields | changes))


def redacted(found: Record, secrets: Sequence[str] = ()) -> Record:
    """The record as it is stored: its head and each step redacted."""
    head = redact_head(found, secrets)
    return head.model_copy(update={"steps": tuple(redact_step(one, secrets) for one in found.steps)})


def _moved(one: StepResult, started: datetime) -> StepResult:
    return one.model_copy(update={"started_at": started}) if one.started_at == _AT_ONCE else one


def expectation(**changes: Any) -> Expectation:
    """A sourced bound on `busbw.bus_bandwidth`."""
    fields = {
        "id": "faq-floor",
        "metric": "busbw.bus_bandwidth",
        "evidence": "reported",
        "source": "a source",
    }
    return Expectation.model_validate(fields | changes)


def runbook(
    expectations: tuple[Expectation, ...] = (),
    claims: tuple[Claim, ...] = (),
    proof: tuple[ProofItem, ...] | None = None,
    **phases: str,
) -> Runbook:
    """An entry whose steps are given as id=phase; its proof is all of Verify where none is given."""
    steps = [Step(id=name, phase=Phase(phase), command="true", line=1) for name, phase in phases.items()]
    sections = tuple(Section(title=found.id, phase=found.phase, body=(found,)) for found in steps)
    if proof is None:
        proof = tuple(ProofItem(metric=found.id) for found in steps if found.phase is Phase.VERIFY)
    head = FrontMatter(
        id="nvlink", number=2, title="NVLink", expectations=expectations, claims=claims, proof=proof
    )
    return Runbook(head=head, sections=sections, path=Path("runbooks/nvlink.md"))
