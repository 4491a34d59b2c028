"""What was seen of a job: one frozen snapshot, which `verdict` judges. Data only.

A value that is None was not seen; `unseen` says why. Not seen is never the same as not there.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from runner.base.bounds import Count, Fact, Name, Reading

MOST_RANKS = 100_000
"""More ranks than any job has. A larger number, in an environment or a dump, says nothing."""


class Frozen(BaseModel):
    """A model whose values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Frame(Frozen):
    """One function of a stack."""

    function: Fact
    file: Fact
    line: Count


Stack = tuple[Frame, ...]
"""The functions that a thread is in, the innermost first."""


class CallState(StrEnum):
    """How far a collective has come on its rank, in the flight recorder's words.

    gloo leaves every call at `scheduled`.
    """

    SCHEDULED = "scheduled"
    STARTED = "started"
    COMPLETED = "completed"


class CollectiveCall(Frozen):
    """One collective or point-to-point call that a rank has made.

    Attributes:
        group: the process group's name.
        seq: its number among the collectives of this group, from 1; the same call has the same number on every rank.
        op: the operation without the backend's name, such as `all_reduce`.
        backend: such as `nccl`; empty if not recorded.
        inputs, outputs: the sizes of its tensors, in elements a dimension.
        dtypes: of its inputs.
        site: the line of the program that called it: the innermost frame outside torch; None if not recorded.
        point_to_point: a send or a receive, whose numbers are not comparable.
    """

    group: Name
    seq: Count
    op: Name
    backend: Name = ""
    inputs: tuple[tuple[Count, ...], ...] = ()
    outputs: tuple[tuple[Count, ...], ...] = ()
    dtypes: tuple[Name, ...] = ()
    state: CallState = CallState.SCHEDULED
    site: Frame | None = None
    point_to_point: bool = False


class Group(Frozen):
    """A process group. `ranks`: global ranks of its members; None if the recorder does not say (gloo)."""

    name: Name
    description: Fact = ""
    ranks: tuple[Count, ...] | None = None


class Recording(Frozen):
    """What the flight recorder of one rank holds: its latest calls, in the order in which it made them.

    Attributes:
        version: of the recorder's format.
        calls: the oldest first; older ones have been overwritten.
        groups: by name.
    """

    version: Name
    calls: tuple[CollectiveCall, ...]
    groups: Mapping[str, Group] = Field(default_factory=dict)


class Unseen(Frozen):
    """A source that did not answer. `source`: such as `stack`, `flight recorder`, `NCCL RAS`, `GPU`, `kernel log`."""

    source: Fact
    reason: Fact


class GpuLoad(Frozen):
    """What the GPU of a rank does.

    Attributes:
        index: as in nvidia-smi.
        utilisation: share of time with a kernel running, 0 to 1.
        power_w, limit_w: the power now, and its limit.
    """

    index: Count
    utilisation: Reading | None = None
    power_w: Reading | None = None
    limit_w: Reading | None = None


class ProcessState(StrEnum):
    """State of a rank's process; `GONE`: its launcher started it and it no longer exists."""

    RUNNING = "running"
    SLEEPING = "sleeping"
    UNINTERRUPTIBLE = "uninterruptible"
    STOPPED = "stopped"
    ZOMBIE = "zombie"
    GONE = "gone"


class RankLook(Frozen):
    """One rank, over the seconds of the observation.

    Attributes:
        node: the name of its node, as the reader knows it.
        job: what tells this job from another one on the node, such as `host:29500`.
        rank, world_size: None if its environment does not say.
        pid: None if read from files.
        cpu_share: CPU seconds per second; 1 is one busy core.
        stacks: of its main thread, in order of time; empty if none could be taken.
        still: whether the main thread never ran during the observation; None if unknown.
        before, recording: its flight recorder at the begin and at the end of the observation.
        gpu: the GPU that it uses.
        unseen: the sources that did not answer for this rank.
    """

    node: Fact
    job: Fact = ""
    rank: Count | None
    world_size: Count | None = None
    pid: Count | None = None
    state: ProcessState | None = None
    cpu_share: Reading | None = None
    stacks: tuple[Stack, ...] = ()
    still: bool | None = None
    before: Recording | None = None
    recording: Recording | None = None
    gpu: GpuLoad | None = None
    unseen: tuple[Unseen, ...] = ()


class XidLine(Frozen):
    """An Xid in a node's kernel log. `line`: its text."""

    node: Fact
    code: Count
    line: Fact


class RasReport(Frozen):
    """The answer of NCCL's RAS.

    Attributes:
        version: NCCL's.
        healthy: whether it reports no error and no warning.
        findings: its errors and warnings, a line each.
        silent_ranks: ranks that it names as not responding.
        behind_ranks: ranks whose number of collectives is below that of the others.
        world: ranks of its job, which `silent_ranks` and `behind_ranks` number; None if no communicator spans the job,
            and then both are empty. Another size than the job's own: this is the answer of another job on the node.
        pids: processes of its job, each in the pid namespace of its node; empty where NCCL lists none (before 2.28.7).
    """

    version: Fact
    healthy: bool
    findings: tuple[Fact, ...] = ()
    silent_ranks: tuple[Count, ...] = ()
    behind_ranks: tuple[Count, ...] = ()
    world: Count | None = None
    pids: tuple[Count, ...] = ()


class Snapshot(Frozen):
    """What was seen of all ranks, and of what they share.

    Attributes:
        seconds: length of the observation; 0 if read from files.
        ranks: every rank that was seen, of one job or several.
        xids: Xids in the kernel logs that could be read.
        ras: None if NCCL's RAS did not answer.
        unseen: the sources that did not answer for all ranks of a node, or at all.
    """

    seconds: Reading
    ranks: Annotated[tuple[RankLook, ...], Field(max_length=MOST_RANKS)]
    xids: tuple[XidLine, ...] = ()
    ras: RasReport | None = None
    unseen: tuple[Unseen, ...] = ()
