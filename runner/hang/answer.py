"""What a detector of `verdict` found, before it is put into words. Data only."""

from dataclasses import dataclass

from runner.hang.findings import HangKind
from runner.hang.mismatch import Mismatch
from runner.hang.model import CollectiveCall


@dataclass(frozen=True)
class Answer:
    """One finding.

    Attributes:
        call: the collective in which others wait.
        waiting: the ranks that wait in it.
        mismatch: of the kinds that come from one.
        unseen_ranks: ranks of the job that were not looked at, if the answer depends on them.
    """

    kind: HangKind
    culprits: tuple[int, ...] = ()
    certain: bool = False
    call: CollectiveCall | None = None
    waiting: tuple[int, ...] = ()
    mismatch: Mismatch | None = None
    unseen_ranks: tuple[int, ...] = ()
