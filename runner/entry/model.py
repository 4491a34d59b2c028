"""Data model of a parsed runbook: an entry with the steps that prove it."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = bool | int | float | str


class Phase(StrEnum):
    """The level-2 sections that may hold steps, in run order."""

    DIAGNOSE = "diagnose"
    REPRODUCE = "reproduce"
    FIX = "fix"
    VERIFY = "verify"


_RUN_ORDER = {phase: place for place, phase in enumerate(Phase)}


class Safety(StrEnum):
    """What a step may do to the node; a `changes-host` step runs only if the caller allows it by name."""

    READ_ONLY = "read-only"
    LOADS_DEVICE = "loads-device"
    CHANGES_HOST = "changes-host"


class Severity(StrEnum):
    """How severe the issue is when it occurs; ordered from least to most severe."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Evidence(StrEnum):
    """The source of a number, which determines whether it may decide a step.

    `measured`: from this project's records. `reported`: from a named source, or computed from one. `chosen`: a
    tolerance that the entry sets and justifies. `unsourced`: no source was found. The first three decide a step; the
    last is shown with its verdict but decides nothing.
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
    """The hardware to which a bound applies: a board; `none`, a host without GPUs; or `any`, a host with GPUs.

    Attributes:
        count: the number of GPUs; any number if omitted.
    """

    gpu: str
    count: int | None = Field(default=None, ge=1)

    @property
    def words(self) -> str:
        """`8 × B200`, `8 GPUs`, `a host without GPUs`."""
        kind = self.gpu.lower()
        if kind == "none":
            return "a host without GPUs"
        if kind == "any":
            return f"{self.count} GPUs" if self.count else "a host with GPUs"
        return f"{self.count} × {self.gpu}" if self.count else self.gpu


class _OfMetric(_Strict):
    metric: str

    @property
    def step(self) -> str:
        """The id of the step."""
        return self.metric.partition(".")[0]


class Condition(_OfMetric):
    """A bound on a metric, or on the ratio of two metrics, as written in runbooks.

    Attributes:
        metric: `<step id>.<measurement name>`.
        at: labels that the measurement must carry; sizes may be written `8GiB`.
        over: the other metric when the bound is on the ratio `metric / over`.
        over_at: labels of the other metric; default: those of `at`.
        min, max: the bound, in `unit`; at least one of them.
        unit: a unit known to `runner.base.units`; default: the stored unit of the metric (`1` for a ratio).
        on: the hardware to which the bound applies; default: any.
    """

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
    """A bound that decides its step, if its evidence allows that."""

    id: str
    evidence: Evidence
    source: str
    text: str | None = None


class Claim(_Strict):
    """A sentence of the entry that records can confirm or contradict, per machine class."""

    id: str
    text: str
    evidence: Evidence
    source: str
    confirmed_if: Condition | None = None
    contradicted_if: Condition | None = None


class ProofItem(_OfMetric):
    """One part of an entry's proof: a step of Verify that must run, or a number that such a step must measure.

    In a head an item without labels is written as the metric only.

    Attributes:
        metric: `<step id>` or `<step id>.<measurement name>`.
        at: labels that the measurement must carry; sizes may be written `8GiB`.
    """

    at: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _metric_alone(cls, data: object) -> object:
        return {"metric": data} if isinstance(data, str) else data

    @property
    def measurement(self) -> str | None:
        """The name of the measurement; None for the whole step."""
        return self.metric.partition(".")[2] or None


class Signature(_Strict):
    """A pattern of this issue's log lines: a regular expression with the same meaning in Python and in browsers.

    Attributes:
        pattern: the regular expression.
        weight: how much a matching line counts.
        means: the finding, in words.
        consequence: the line only follows from a fault, which other lines may name; see `runner.entry.signatures`.
        example: one log line that the pattern matches, for the start page.
    """

    pattern: str
    weight: int = Field(default=1, ge=1, le=10)
    means: str | None = None
    consequence: bool = False
    # One log line that the pattern matches, for the start page.
    example: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[^\r\n]*$")


class FrontMatter(_Strict):
    """The YAML head of a runbook.

    Attributes:
        applies_to: what the entry is for, such as `8xB200`; if all are GPUs, a proof without them checks the method.
        headline: id of the step whose number represents the entry.
        proof: steps and metrics of Verify; the fix is proved only if all of them ran or were measured.
        seen: symptoms from general to specific: the entry's path in the symptom tree.
        formerly: earlier ids of the entry; links and records with these ids refer to it.
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


def probes_in(command: str) -> tuple[str, ...]:
    """Names of the probes that a command starts, in order of appearance."""
    return tuple(_LAUNCHED_PROBE.findall(command))


class Step(_Strict):
    """One fenced `bash` block with an id: the unit that is run, recorded and shown.

    `drill`: it brings its own fault or sample, so that its result says nothing about the node.
    """

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
    drill: bool = False

    @property
    def probes(self) -> tuple[str, ...]:
        """Names of the probes that the command starts, in order of appearance."""
        return probes_in(self.command)


class Prose(_Strict):
    """Markdown text between steps, unchanged from the file; `line` is its first line."""

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
        """All steps in run order: by phase, then by place in the file."""
        steps = [part for section in self.sections for part in section.body if isinstance(part, Step)]
        return tuple(sorted(steps, key=lambda step: _RUN_ORDER[step.phase]))

    def step(self, step_id: str) -> Step | None:
        """The step with this id, or None."""
        return next((step for step in self.steps if step.id == step_id), None)

    def inherits(self, step: Step) -> tuple[Step, ...]:
        """The steps whose environment this step inherits: earlier steps of its phase and, for Verify, all of Fix."""
        earlier: list[Step] = []
        for other in self.steps:
            if other.id == step.id:
                break
            if other.phase is step.phase or (step.phase is Phase.VERIFY and other.phase is Phase.FIX):
                earlier.append(other)
        return tuple(earlier)
