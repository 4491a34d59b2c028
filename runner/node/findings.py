"""What was found on a node, and what to do about it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from runner.base.words import and_more


class Action(StrEnum):
    """What to do about a finding, the least first.

    `keep`: nothing needs to be done now; worth knowing. `restart`: restart the job, after the change that the finding
    names; the node is sound. `reset`: end all jobs of the GPU and reset it. `drain`: take the node out of service, to
    reboot or repair it. `replace`: a part of it has to be replaced.
    """

    KEEP = "keep"
    RESTART = "restart"
    RESET = "reset"
    DRAIN = "drain"
    REPLACE = "replace"

    @property
    def rank(self) -> int:
        """0 for the least, `keep`."""
        return list(Action).index(self)

    @property
    def ends_service(self) -> bool:
        """Whether the node may start no further job before it is done."""
        return self in {Action.RESET, Action.DRAIN, Action.REPLACE}


@dataclass(frozen=True, kw_only=True)
class NodeFinding:
    """One finding: where, what was found, what to do next.

    Attributes:
        kind: what it is, in words joined by hyphens: `row-remap-pending`. Stable, for programs.
        action: what to do; `keep` is only a note.
        where: `GPU 3`, `GPU 3, NVLink 7`, `mlx5_2 port 1`, `this process`, `node`.
        found: the problem in one clause, with the values: `a row remap is pending (2 uncorrectable)`.
        next: the next thing that the reader does.
        source: whose rule the action is, with its name and year; `chosen here: why` if it is this project's.
        evidence: the readings or log lines behind it.
        vendor: the vendor's own action, where it was read: `GPU reset (GPU recovery action)`. It decides the action.
    """

    kind: str
    action: Action
    where: str
    found: str
    next: str
    source: str
    evidence: tuple[str, ...] = ()
    vendor: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; {self.next}"


@dataclass(frozen=True)
class NotRead:
    """Something that could not be read: it is unknown, not fine.

    Attributes:
        what: what was to be read, and where: `ECC errors of GPU 3`.
        why: why it could not, and how it can: `ECC is off`, `kernel.dmesg_restrict is 1; run as root`.
        matters: the verdict on this group is unknown without it. False if it is absent by design.
    """

    what: str
    why: str
    matters: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True)
class NodeNumber:
    """One reading to be published: metric, value in the metric's unit, labels (`gpu`, `port`, …)."""

    metric: str
    value: float
    labels: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeVerdict:
    """The verdict on one group.

    Attributes:
        findings: in any order.
        not_read: what is unknown.
        numbers: what is published.
        judged: what the verdict covers, for the reader: `ECC errors and remapped rows of 8 GPUs`. Empty if nothing
            could be judged.
        finds: whether it can have findings at all; False if its facts are only compared with those of other nodes.
        not_applicable: why this group does not apply here: `no GPU has NVLink`; None if it does.
        facts: for programs, in JSON.
        settings: what should be equal on all nodes of a fleet, by name: versions, modes, limits. Where the GPUs of one
            node differ, the values are counted: `96.00.A5 × 7, 96.00.68 × 1`.
    """

    findings: tuple[NodeFinding, ...] = ()
    not_read: tuple[NotRead, ...] = ()
    numbers: tuple[NodeNumber, ...] = ()
    judged: str = ""
    finds: bool = True
    not_applicable: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[NodeFinding, ...]:
        """The findings that need something to be done, the gravest first."""
        return tuple(one for one in by_gravity(self.findings) if one.action is not Action.KEEP)

    @property
    def notes(self) -> tuple[NodeFinding, ...]:
        """The findings that need nothing to be done."""
        return tuple(one for one in self.findings if one.action is Action.KEEP)


def by_gravity(findings: Iterable[NodeFinding]) -> tuple[NodeFinding, ...]:
    """The gravest action first; of equal ones, in the order given."""
    return tuple(sorted(findings, key=lambda one: -one.action.rank))


def first_of(findings: Sequence[NodeFinding]) -> str:
    """The first, with its action, and how many more: `drain: GPU 3: … (and 2 more)`."""
    return f"{findings[0].action}: {findings[0]}{and_more(len(findings))}"
