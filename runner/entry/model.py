"""What a runbook is once it has been read: an entry of the FAQ with the steps that prove it."""

import hashlib
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = bool | int | float | str


class Phase(StrEnum):
    """The level-2 sections that may hold steps, in the order in which they run."""

    DIAGNOSE = "diagnose"
    REPRODUCE = "reproduce"
    FIX = "fix"
    VERIFY = "verify"


class Safety(StrEnum):
    """What a step may do to the node; `changes-host` never runs unless the caller allows it by name."""

    READ_ONLY = "read-only"
    LOADS_DEVICE = "loads-device"
    CHANGES_HOST = "changes-host"


class Severity(StrEnum):
    """How bad the issue is when it is there; ordered from least to most."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Evidence(StrEnum):
    """Where a number comes from, and so whether it may decide a step.

    `measured` by this project's records; `reported` by a named source (or computed from one); `chosen`: a
    tolerance that the entry itself sets and defends; `unsourced`: looked for and not found. The first three
    decide, the last is shown with its verdict and decides nothing.
    """

    MEASURED = "measured"
    REPORTED = "reported"
    CHOSEN = "chosen"
    UNSOURCED = "unsourced"

    @property
    def decides(self) -> bool:
        """Whether an expectation with this evidence may pass or fail a step."""
        return self is not Evidence.UNSOURCED


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hardware(_Strict):
    """Hardware on which a bound means something. `gpu: none` is a host without GPUs; `count` counts GPUs."""

    gpu: str
    count: int | None = Field(default=None, ge=1)


class Condition(_Strict):
    """A bound on a metric, or on the ratio of two, in the terms that runbooks use.

    Attributes:
        metric: `<step id>.<measurement name>`.
        at: labels that the measurement must carry; sizes may be written `8GiB`.
        over: the other metric when the bound is on the ratio `metric / over`.
        over_at: labels of the other metric; those of `at` when left out.
        min, max: the bound, in `unit`; at least one of them.
        unit: a unit known to `runner.units`; left out, the stored unit of the metric (`1` for a ratio).
        on: hardware to which the bound applies; anywhere when left out.
    """

    metric: str
    at: dict[str, Scalar] = Field(default_factory=dict)
    over: str | None = None
    over_at: dict[str, Scalar] | None = None
    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    unit: str | None = None
    on: Hardware | None = None

    @model_validator(mode="after")
    def _is_a_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        if self.over is None and self.over_at is not None:
            raise ValueError("over_at needs over")
        return self


class Expectation(Condition):
    """A bound that decides the step it belongs to, if its evidence allows it to."""

    id: str
    evidence: Evidence
    source: str
    text: str | None = None


class Claim(_Strict):
    """A sentence of the entry that records can decide, per machine class."""

    id: str
    text: str
    evidence: Evidence
    source: str
    confirmed_if: Condition | None = None
    contradicted_if: Condition | None = None


class ProofItem(_Strict):
    """One part of an entry's proof: a step of Verify that must run, or a number that one must measure.

    In a head it is written as the metric alone where it has no labels.

    Attributes:
        metric: `<step id>` or `<step id>.<measurement name>`.
        at: labels that the measurement must carry; sizes may be written `8GiB`.
    """

    metric: str
    at: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _metric_alone(cls, data: object) -> object:
        return {"metric": data} if isinstance(data, str) else data

    @property
    def step(self) -> str:
        """The id of the step."""
        return self.metric.partition(".")[0]

    @property
    def measurement(self) -> str | None:
        """The name of the measurement; None where the whole step is meant."""
        return self.metric.partition(".")[2] or None


class Signature(_Strict):
    """A pattern that log lines of this issue match: a regular expression that Python and browsers both read."""

    pattern: str
    weight: int = Field(default=1, ge=1, le=10)
    means: str | None = None


class FrontMatter(_Strict):
    """The YAML head of a runbook.

    Attributes:
        headline: id of the step whose number stands for the entry.
        proof: what must have run or been measured in Verify; without all of it nothing about the title is proved.
        seen: what is seen, from the general to the particular: the entry's way through the tree of symptoms.
        formerly: ids that the entry has had; links to them lead here, and so do their records.
    """

    id: str
    number: int = Field(ge=1)
    title: str = Field(min_length=1)
    seen: tuple[str, ...] = Field(default=(), max_length=4)
    formerly: tuple[str, ...] = ()
    severity: Severity = Severity.MEDIUM
    tags: tuple[str, ...] = ()
    applies_to: tuple[str, ...] = ()
    headline: str | None = None
    proof: tuple[ProofItem, ...] = ()
    signatures: tuple[Signature, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    claims: tuple[Claim, ...] = ()
    related: tuple[str, ...] = ()
    guide: str | None = None


_LAUNCHED_PROBE = re.compile(r"-m\s+runner\.probes\.([A-Za-z_]\w*)")


class Step(_Strict):
    """One fenced `bash` block with an id: the unit that runs, is recorded and is shown."""

    id: str
    phase: Phase
    command: str
    line: int
    gpus: int = 0
    nodes: int = 1
    timeout: float = 300.0
    safety: Safety = Safety.READ_ONLY
    needs: tuple[str, ...] = ()
    slow: bool = False

    @property
    def probes(self) -> tuple[str, ...]:
        """Names of the probes that the command starts, in order of appearance."""
        return tuple(_LAUNCHED_PROBE.findall(self.command))


class Prose(_Strict):
    """A stretch of Markdown between steps, as it stands in the file; `line` is that of its beginning."""

    markdown: str
    line: int = 1


class Section(_Strict):
    """A level-2 section: its title, its phase if it is one, and its prose and steps in order."""

    title: str
    phase: Phase | None
    body: tuple[Prose | Step, ...]


class Runbook(_Strict):
    """One entry: front matter, sections in file order, and the file it came from."""

    head: FrontMatter
    sections: tuple[Section, ...]
    path: Path

    @property
    def id(self) -> str:
        """The id, which is also the file's stem."""
        return self.head.id

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in the order in which they run: by phase, then by place in the file."""
        order = list(Phase)
        steps = [part for section in self.sections for part in section.body if isinstance(part, Step)]
        return tuple(sorted(steps, key=lambda step: order.index(step.phase)))

    def step(self, step_id: str) -> Step | None:
        """The step with this id, or None."""
        return next((step for step in self.steps if step.id == step_id), None)

    def inherits(self, step: Step) -> tuple[Step, ...]:
        """Steps whose environment this one starts from: earlier ones of its phase, and all of Fix for Verify."""
        earlier: list[Step] = []
        for other in self.steps:
            if other.id == step.id:
                break
            if other.phase is step.phase or (step.phase is Phase.VERIFY and other.phase is Phase.FIX):
                earlier.append(other)
        return tuple(earlier)


def step_digest(runbook: Runbook, step: Step, method_versions: tuple[tuple[str, int], ...]) -> str:
    """Digest of all that makes a step's numbers comparable; prose is not part of it.

    Args:
        runbook: the entry, for the steps whose environment the step inherits.
        step: the step.
        method_versions: (probe, method version) of the probes that the step starts.

    Returns:
        16 hexadecimal digits.
    """
    parts = {
        "steps": [s.model_dump(mode="json", exclude={"line"}) for s in (*runbook.inherits(step), step)],
        "methods": sorted(method_versions),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
