"""What `verdict` answers about a job that hangs. Data only."""

from enum import StrEnum
from typing import Literal

from runner.base.bounds import Count, Fact, Line, Name
from runner.hang.model import Frozen, Unseen


class HangKind(StrEnum):
    """How a job hangs.

    Attributes:
        MOVING: every rank made progress during the observation.
        UNKNOWN: what was seen does not decide.
        LATE: the culprit has not entered the collective in which others wait; its process runs or waits elsewhere.
        STOPPED: the culprit's process is stopped (SIGSTOP, a debugger, a frozen container).
        GONE: the culprit's process has ended, and the others wait for it.
        SKIPPED: the culprit left out a collective that the others called.
        OTHER_OP: the culprit called another operation than the others.
        OTHER_SIZE: the culprit called the same operation with another size or type.
        NOT_STARTED: every rank has called the collective, and the culprit's GPU has not begun it.
        SAME_PLACE: all ranks are in the same collective and none goes on: the GPUs, the links or the network.
        JOINING: ranks wait for others to join the process group.
    """

    MOVING = "moving"
    UNKNOWN = "unknown"
    LATE = "late"
    STOPPED = "stopped"
    GONE = "gone"
    SKIPPED = "skipped"
    OTHER_OP = "other-op"
    OTHER_SIZE = "other-size"
    NOT_STARTED = "not-started"
    SAME_PLACE = "same-place"
    JOINING = "joining"


class RankRow(Frozen):
    """One rank in the table.

    Attributes:
        does: what it does or waits for, such as `waits in all_reduce #4821 of group 0`.
        culprit: whether the verdict names it.
    """

    rank: Count | None
    node: Fact
    pid: Count | None
    does: Line
    culprit: bool


class HangVerdict(Frozen):
    """The answer about one job.

    Attributes:
        job: as in `RankLook.job`.
        culprits: the ranks that hold up the others.
        certain: whether what was seen admits no other culprit; False for a most likely one.
        side: where to look next.
        sentence: the answer for a reader, one sentence.
        rows: every rank of the job, the culprits first.
        entry: the id of the entry that comes next; None if there is none.
        unseen: the sources that are missing from this answer.
    """

    job: Fact
    kind: HangKind
    culprits: tuple[Count, ...] = ()
    certain: bool = False
    side: Literal["CPU", "GPU or network"] | None = None
    sentence: Line
    rows: tuple[RankRow, ...] = ()
    entry: Name | None = None
    unseen: tuple[Unseen, ...] = ()
