"""Data model of a record: one run of one runbook on one node."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from runner.base import bounds
from runner.entry.model import Evidence, Phase
from runner.hardware.machine import Machine

SCHEMA_VERSION = 5
_MOST_STEPS = 500


class StepStatus(StrEnum):
    """How a step ended.

    `passed` and `symptom` finished without and with a symptom. `failed` missed an expectation or used an unrequested
    fallback. `error`, `timeout` and `interrupted` did not finish. `skipped` always has a reason.
    """

    PASSED = "passed"
    SYMPTOM = "symptom"
    FAILED = "failed"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"

    @property
    def finished(self) -> bool:
        """Whether it finished, with whatever result: its numbers may be shown."""
        return self in {StepStatus.PASSED, StepStatus.SYMPTOM, StepStatus.FAILED}

    @property
    def broken(self) -> bool:
        """Whether it did not finish: it says nothing about the node."""
        return self in {StepStatus.ERROR, StepStatus.TIMEOUT, StepStatus.INTERRUPTED}


class Outcome(StrEnum):
    """The outcome of a run.

    `drill_passed`: the fault was found and undone, but a part of the entry's proof did not run or was not measured.
    """

    HEALTHY = "healthy"
    FIX_PROVED = "fix_proved"
    DRILL_PASSED = "drill_passed"
    SYMPTOM = "symptom"
    NOT_FIXED = "not_fixed"
    NOT_REPRODUCED = "not_reproduced"
    INCOMPLETE = "incomplete"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not_applicable"

    @property
    def exit_status(self) -> int:
        """0: good; 1: issue found; 3: unknown."""
        if self in {Outcome.HEALTHY, Outcome.FIX_PROVED, Outcome.DRILL_PASSED}:
            return 0
        return 1 if self in {Outcome.SYMPTOM, Outcome.NOT_FIXED, Outcome.NOT_REPRODUCED} else 3


class Verdict(StrEnum):
    """The result of an expectation."""

    MET = "met"
    MISSED = "missed"
    INCONCLUSIVE = "inconclusive"
    NOT_EVALUATED = "not_evaluated"


class ClaimState(StrEnum):
    """The state of a claim according to a record."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"


def _utc(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_InBounds = Field(ge=bounds.FIRST_MOMENT, lt=bounds.LAST_MOMENT)
Instant = Annotated[AwareDatetime, _InBounds, PlainSerializer(_utc, return_type=str)]
"""UTC with time zone, in milliseconds."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measurement(_Model):
    """One measured value with its raw samples.

    Attributes:
        name: a metric of `runner.vocabulary`.
        labels: what distinguishes it from others of its name (op, bytes, arm, …).
        value: the statistic over the samples, in `unit`.
        statistic: `median`, `geometric mean`, `p95`, `max`, `sum`, `single`, …
        samples: raw samples in the order taken; empty if the value does not come from samples.
    """

    name: bounds.Name
    labels: Annotated[dict[bounds.Name, bounds.Label], Field(max_length=bounds.LABELS)] = Field(
        default_factory=dict
    )
    value: bounds.Reading
    unit: bounds.Name
    statistic: bounds.Name
    samples: Annotated[tuple[bounds.Reading, ...], Field(max_length=bounds.SAMPLES)] = ()


_Measurements = Annotated[tuple[Measurement, ...], Field(max_length=bounds.MEASUREMENTS)]
# Shorter than the limit of a step's reason, which quotes it.
_Said = Annotated[str, Field(max_length=2_000)]


class Document(_Model):
    """The result of a probe: the JSON document at the end of its output.

    Attributes:
        fallback_reason: why `effective` differs from `requested`.
        fallback_asked: the caller allowed fallbacks (`--compile-mode smart`), so a fallback is not a failure.
        details: further data, in JSON.
        simulated: the probe read a stand-in for hardware (`runner.record.simulated`).
    """

    probe: bounds.Name
    method_version: bounds.Count
    status: str = Field(pattern="^(ok|symptom|not_applicable)$")
    reason: _Said | None = None
    requested: bounds.PlainJson = Field(default_factory=dict)
    effective: bounds.PlainJson = Field(default_factory=dict)
    fallback_reason: _Said | None = None
    fallback_asked: bool = False
    details: bounds.PlainJson = Field(default_factory=dict)
    measurements: _Measurements = ()
    simulated: bool = False


class StepResult(_Model):
    """One step of a run: command, status, output (first and last part) and measurements.

    `left_out`: skipped, or terminated before its own deadline, because of the time limit of the run.
    `simulated`: as in its document.
    """

    id: bounds.Name
    phase: Phase
    command: bounds.Text
    digest: bounds.Name
    status: StepStatus
    reason: bounds.Line | None = None
    left_out: bool = False
    exit_status: bounds.ExitStatus | None = None
    started_at: Instant | None = None
    duration_s: bounds.Seconds | None = None
    gpus_used: bounds.Count = 0
    stdout_tail: bounds.Text = ""
    stdout_dropped_bytes: bounds.Count = 0
    stderr_tail: bounds.Text = ""
    stderr_dropped_bytes: bounds.Count = 0
    processes_ended: bounds.Count = 0
    probe: bounds.Name | None = None
    method_version: bounds.Count | None = None
    requested: bounds.PlainJson = Field(default_factory=dict)
    effective: bounds.PlainJson = Field(default_factory=dict)
    fallback_reason: bounds.Line | None = None
    fallback_asked: bool = False
    details: bounds.PlainJson = Field(default_factory=dict)
    measurements: _Measurements = ()
    simulated: bool = False

    @model_validator(mode="after")
    def _finished_has_run(self) -> Self:
        if self.status.finished and None in (self.started_at, self.duration_s, self.exit_status):
            raise ValueError(f"{self.status} without a start, a duration and an exit status")
        return self

    @property
    def counts(self) -> bool:
        """Whether its result may be shown, compared and judged: it finished and was not simulated."""
        return self.status.finished and not self.simulated


class RunbookRef(_Model):
    """The entry that was run."""

    id: bounds.Name
    number: bounds.Count
    title: bounds.Line


_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Code(_Model):
    """The code that ran.

    Attributes:
        commit: of the checkout that contains the package; None without a checkout.
        dirty: the package or the entries differ from the commit's `runner/` and `runbooks/`; None without a checkout.
        package, entries: digests of the imported `runner` package and of the folder of entries.
        digest: used instead in records of schemas 1 and 2: one digest over both.
    """

    commit: bounds.Name | None
    dirty: bool | None
    package: _Sha256 | None = None
    entries: _Sha256 | None = None
    digest: bounds.Name | None = None

    @model_validator(mode="after")
    def _says_which_code(self) -> Self:
        both = self.package is not None and self.entries is not None
        if both == (self.digest is not None) or (self.package is None) != (self.entries is None):
            raise ValueError("needs digests of package and entries, or one of both")
        return self

    @property
    def name(self) -> str:
        """Its short name: the commit, else the digest."""
        return self.commit or self.package or self.digest or ""


class Options(_Model):
    """The caller's options. Only numbers of equal presets are compared.

    `within`: time limit of the whole run with all its entries, in seconds; None without a limit.
    """

    preset: bounds.Name
    phases: Annotated[tuple[Phase, ...], Field(max_length=20)]
    steps: Annotated[tuple[bounds.Name, ...], Field(max_length=_MOST_STEPS)] = ()
    reproduce: bool = False
    slow: bool = True
    allow: Annotated[tuple[bounds.Name, ...], Field(max_length=20)] = ()
    within: bounds.Seconds | None = None


class StoredVerdict(_Model):
    """An expectation, judged when the run ended. History: pages judge it again."""

    id: bounds.Name
    verdict: Verdict
    value: Annotated[float, Field(allow_inf_nan=False)] | None
    unit: bounds.Name
    evidence: Evidence
    decides: bool
    note: bounds.Line | None = None


class Record(_Model):
    """One run of one runbook on one node.

    `outcome` and `ended_at` are None only if the run was killed; its finished steps still count.
    A joint run over several nodes of a campaign has their aliases in `members` and `node_alias` is the first's; the
    nodes' own records of the same entry name its run id in `joint_runs`.
    `outcome`, and for `drill_passed` `unproved` (why its effect was not measured), were judged when the run ended.
    History: pages judge them again.
    `run_id` is a valid file name without path separators.
    `simulated`: the run as a whole was.
    """

    schema_version: Annotated[int, Field(ge=1, le=1_000)] = SCHEMA_VERSION
    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64)]
    campaign: bounds.Name | None = None
    node_alias: bounds.Name
    members: Annotated[tuple[bounds.Name, ...], Field(max_length=10_000)] = ()
    joint_runs: Annotated[tuple[bounds.Name, ...], Field(max_length=1_000)] = ()
    runbook: RunbookRef
    code: Code
    machine: Machine
    started_at: Instant
    ended_at: Instant | None = None
    options: Options
    steps: Annotated[tuple[StepResult, ...], Field(max_length=_MOST_STEPS)] = ()
    verdicts: Annotated[tuple[StoredVerdict, ...], Field(max_length=1_000)] = ()
    outcome: Outcome | None = None
    unproved: Annotated[tuple[bounds.Line, ...], Field(max_length=1_000)] = ()
    simulated: bool = False

    @model_validator(mode="after")
    def _samples_in_bounds(self) -> Self:
        count = sum(len(one.samples) for step in self.steps for one in step.measurements)
        if count > bounds.SAMPLES_OF_A_RUN:
            raise ValueError(f"{count} samples, more than the {bounds.SAMPLES_OF_A_RUN} of any run")
        return self

    @property
    def moment(self) -> tuple[datetime, str]:
        """Sort key, oldest first."""
        return self.started_at, self.run_id
