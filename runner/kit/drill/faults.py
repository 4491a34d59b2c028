"""What the culprit does at the place of its fault. Runs in a rank."""

import os
import signal
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from runner.kit.drill.injection import Injection

_POLL_S = 0.01
# Additions between two looks at the clock, about 1 ms of them.
_BURST = 20_000


class Act(StrEnum):
    """What a rank does at a collective."""

    CALL = "call"
    SKIP = "skip"
    OTHER_OP = "op"
    OTHER_SIZE = "shape"


class FaultInjector:
    """The fault as one rank sees it: the culprit does it, and every rank marks how far it has come.

    Args:
        injection: the fault; None for healthy steps.
        rank: this rank.
        mark: reports the progress of this rank.
        release: the file that ends a lateness.
        longest_s: seconds after which a lateness ends without it.
    """

    def __init__(
        self,
        injection: Injection | None,
        rank: int,
        mark: Callable[[str], None],
        release: Path,
        longest_s: float,
    ) -> None:
        self._injection, self._mark = injection, mark
        self._mine = injection is not None and injection.rank == rank
        self._release, self._longest_s = release, longest_s

    def loads(self, step: int) -> None:
        """Called in the loader of a step: a sleeping late rank is late here."""
        fault = self._injection
        if fault and self._mine and fault.fault == "late" and not fault.busy and step == fault.step:
            self._mark("fault")
            wait_for_storage(self._release, self._longest_s)

    def adds_nan(self, step: int) -> bool:
        """Whether this rank's own gradient of this step gets a NaN."""
        fault = self._injection
        return bool(fault and self._mine and fault.fault == "nan" and step == fault.step)

    def enters(self, step: int, place: str) -> Act:
        """Called before a collective: says where the rank is, does the fault, and returns what to do."""
        fault = self._injection
        if fault is None or step < fault.step:
            return Act.CALL
        act = self._inject(fault) if self._mine and (step, place) == (fault.step, fault.place) else Act.CALL
        if act is not Act.SKIP:
            self._mark(f"{step} {place}")
        return act

    def _inject(self, fault: Injection) -> Act:
        if fault.fault in set(Act):
            self._mark("fault")
            return Act(fault.fault)
        if fault.fault == "late" and fault.busy:
            self._mark("fault")
            count_tokens(self._release, self._longest_s)
        if fault.fault == "stop":
            self._mark("fault")
            os.kill(os.getpid(), signal.SIGSTOP)
        return Act.CALL


def wait_for_storage(release: Path, longest_s: float) -> None:
    """Sleep until the file exists, or for this many seconds."""
    deadline = time.monotonic() + longest_s
    while not release.exists() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def count_tokens(release: Path, longest_s: float) -> int:
    """Compute in Python until the file exists, or for this many seconds; returns their sum."""
    deadline, total = time.monotonic() + longest_s, 0
    while not release.exists() and time.monotonic() < deadline:
        for number in range(_BURST):
            total += number & 7
    return total
