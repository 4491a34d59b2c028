"""A drill of a hang: ranks run into a fault, this process looks at them as `runbook hang` does, and judges."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from runner.base.errors import RankError, RunbookError
from runner.hang.findings import HangKind, HangVerdict
from runner.hang.model import ProcessState, RankLook, RasReport, Snapshot
from runner.kit.drill.injection import Injection
from runner.kit.drill.job import DrilledRanks, JobShape, Rehearsal, drilled_ranks
from runner.kit.drill.local_ranks import LocalRanks
from runner.kit.drill.worker import DUMPS, RELEASE, STOP

_KINDS = {
    "skip": HangKind.SKIPPED,
    "op": HangKind.OTHER_OP,
    "shape": HangKind.OTHER_SIZE,
    "late": HangKind.LATE,
    "stop": HangKind.STOPPED,
}
_PASSING = ("late", "stop")
_LONG_TIMEOUT_S = 60.0
# The job goes on for some steps after a fault that passes.
_STEPS_AFTER = 4
_ENDLESS = 100_000
# A look lasts this long, at least, and the ranks must have been silent for as long as some steps take.
LOOK_S = 1.0
_SILENT_S, _SILENT_STEPS, _POLL_S = 0.3, 3, 0.05
# Of the timeout, how long a rank is late that is not released.
_LATE_SHARE = 0.8
_NODE = "localhost"


@dataclass(frozen=True)
class HangDrill:
    """What came of one drill.

    Attributes:
        injection: the fault; None for a healthy job.
        verdict: the answer about the job; None if the ranks were not looked at.
        source: `live` for running ranks, `dumps` for what ended ranks left.
        look_s: seconds from the first look to the answer.
        timeout_s: of the collectives.
        complaining: ranks that ended with an error of their own; None if the drill did not wait for it.
        last_words: the error of each of them.
        ras: what NCCL's RAS said meanwhile; None if it was not asked, or did not answer.
    """

    injection: Injection | None
    verdict: HangVerdict | None
    source: str
    look_s: float
    timeout_s: float
    complaining: tuple[int, ...] | None
    last_words: tuple[str, ...] = ()
    ras: RasReport | None = None

    @property
    def survived(self) -> bool | None:
        """Whether the job went on after the fault; None if the drill did not wait for it."""
        return None if self.complaining is None else not self.complaining

    @property
    def named(self) -> bool:
        """Whether the verdict names the injected rank, it alone, and the injected kind."""
        if self.injection is None or self.verdict is None:
            return False
        return self._names_culprit and self.verdict.kind is _KINDS[self.injection.fault]

    @property
    def wrong_certain(self) -> bool:
        """Whether the verdict calls a rank the certain culprit that is not."""
        verdict = self.verdict
        return verdict is not None and verdict.certain and bool(verdict.culprits) and not self._names_culprit

    @property
    def _names_culprit(self) -> bool:
        assert self.verdict is not None
        return self.injection is not None and self.verdict.culprits == (self.injection.rank,)


def drill_hang(shape: JobShape, fault: Injection, timeout_s: float | None, *, to_the_end: bool) -> HangDrill:
    """Run a job into a fault, look at it, and judge it.

    Args:
        shape: of the job.
        fault: one of `HANGS`.
        timeout_s: of the collectives; None for one that outlasts the look on this machine.
        to_the_end: also wait for what becomes of the job: it goes on, or its ranks time out.

    Raises:
        RankError: the ranks did not come to the fault.
        RunbookError: the look took longer than the fault lasted.
    """
    with drilled_ranks(shape) as drilled:
        rehearsal = drilled.rehearse()
        if timeout_s is None:
            # Ranks that are waited for until they give up should do so soon.
            ends = fault.fault == "shape" or (to_the_end and fault.fault not in _PASSING)
            timeout_s = rehearsal.timeout_s if ends else max(_LONG_TIMEOUT_S, rehearsal.timeout_s)
        _run_into(drilled, rehearsal, fault, timeout_s, _LATE_SHARE * timeout_s)
        local, began, source = drilled.local, time.monotonic(), "live"
        verdict = ras = None
        if _stands_still(local, rehearsal):
            began = time.monotonic()
            seen = _seen(local.pids)
            verdict, ras = _judged(seen), seen.ras
            local.listen()
            _refuse_moved(local, fault, time.monotonic() - began)
        if _some_gone(local):
            # A rank that ends takes the others with it: they leave their dumps, now or when they time out.
            source = "dumps"
            local.wait_until(
                lambda: all(local.gone(rank) for rank in range(shape.ranks)), "ending after a fault"
            )
            began = time.monotonic()
            verdict = _judged(_left_behind(drilled))
        look_s = time.monotonic() - began
        complaining = _outcome(drilled, fault) if to_the_end else None
        words = tuple(local.last_word(rank) or "" for rank in complaining or ())
        if complaining == ():
            local.dismiss()
    return HangDrill(fault, verdict, source, look_s, timeout_s, complaining, words, ras)


def drill_timeout(shape: JobShape, fault: Injection, timeout_s: float, late_s: float) -> HangDrill:
    """Run a job into a fault at a given timeout, without a look, and wait for what becomes of it.

    Args:
        shape: of the job.
        fault: one of `HANGS`.
        timeout_s: of the collectives.
        late_s: how long a late or stopped rank stays away.

    Raises:
        RankError: the ranks did not come to the fault.
    """
    with drilled_ranks(shape) as drilled:
        rehearsal = drilled.rehearse()
        _run_into(drilled, rehearsal, fault, timeout_s, late_s)
        if fault.fault == "stop":
            until = time.monotonic() + late_s
            drilled.local.wait_until(lambda: time.monotonic() >= until, "waiting for a stopped rank")
        complaining = _outcome(drilled, fault, release=fault.fault == "stop")
        words = tuple(drilled.local.last_word(rank) or "" for rank in complaining)
        if not complaining:
            drilled.local.dismiss()
    return HangDrill(fault, None, "none", 0.0, timeout_s, complaining, words)


def look_at_healthy(drilled: DrilledRanks, rehearsal: Rehearsal) -> HangDrill:
    """Look at a job while it runs healthy steps, and let it go on to its end."""
    local = drilled.local
    before = [len(local.marks(rank)) for rank in range(local.ranks)]
    drilled.begin(_ENDLESS, rehearsal, rehearsal.timeout_s, None)
    local.wait_until(
        lambda: all(len(local.marks(rank)) > before[rank] for rank in range(local.ranks)),
        "running steps",
        ends=False,
    )
    began = time.monotonic()
    verdict = _judged(_seen(local.pids))
    look_s = time.monotonic() - began
    drilled.signal(STOP)
    local.ask(None, "running to the end")
    return HangDrill(None, verdict, "live", look_s, rehearsal.timeout_s, ())


def _run_into(
    drilled: DrilledRanks, rehearsal: Rehearsal, fault: Injection, timeout_s: float, longest_s: float
) -> None:
    """Return when the culprit has marked its fault, and every other rank that it enters the collective or has ended."""
    local, place = drilled.local, f"{fault.step} {fault.place}"
    drilled.begin(fault.step + _STEPS_AFTER, rehearsal, timeout_s, fault, longest_s)

    def reached() -> bool:
        return all(
            ("fault" if rank == fault.rank else place) in local.marks(rank) or local.gone(rank)
            for rank in range(local.ranks)
        )

    local.wait_until(reached, "running to the fault")
    if "fault" not in local.marks(fault.rank):
        ends = "; ".join(filter(None, (local.last_word(rank) for rank in range(local.ranks))))
        raise RankError(
            f"the job ended before the fault ({ends}); give --timeout more than {timeout_s:g} s on this machine"
        )


def _stands_still(local: LocalRanks, rehearsal: Rehearsal) -> bool:
    """Wait until no rank has said anything for some steps' time; False if a rank ends meanwhile."""
    silence = max(_SILENT_S, _SILENT_STEPS * rehearsal.step_s)
    said, since = -1, time.monotonic()
    while time.monotonic() - since < silence:
        if _some_gone(local):
            return False
        now = sum(len(local.marks(rank)) for rank in range(local.ranks))
        if now != said:
            said, since = now, time.monotonic()
        local.listen(_POLL_S)
    return not _some_gone(local)


def _some_gone(local: LocalRanks) -> bool:
    return any(local.gone(rank) for rank in range(local.ranks))


def _refuse_moved(local: LocalRanks, fault: Injection, look_s: float) -> None:
    if fault.fault == "late" and f"{fault.step} {fault.place}" in local.marks(fault.rank):
        raise RunbookError(
            f"the look at the ranks took {look_s:.1f} s, longer than the fault lasted; give a larger --timeout"
        )


def _outcome(drilled: DrilledRanks, fault: Injection, *, release: bool = True) -> tuple[int, ...]:
    """End a fault that can end, and wait until every rank has done its steps or has ended: those with an error."""
    local = drilled.local
    if release and fault.fault == "late":
        drilled.signal(RELEASE)
    if release and fault.fault == "stop":
        local.resume(fault.rank)
    local.wait_until(
        lambda: all(local.answered(rank) or local.gone(rank) for rank in range(local.ranks)),
        "coming to an end after the fault",
    )
    return tuple(local.complaining())


def _judged(snapshot: Snapshot) -> HangVerdict | None:
    from runner.hang.verdict import judge_hang

    return next(iter(judge_hang(snapshot)), None)


def _seen(pids: Sequence[int]) -> Snapshot:
    from runner.hang.observe import observe

    return observe(pids, seconds=LOOK_S, node=_NODE)


def _left_behind(drilled: DrilledRanks) -> Snapshot:
    """What ended ranks have left: dumps, and from this process, which started them, that they have ended."""
    from runner.hang.dumps import read_dumps

    looks, unseen = read_dumps(drilled.folder / DUMPS)
    ranks = drilled.local.ranks
    there = {look.rank for look in looks}
    # What was not read of them is in `unseen`.
    gone = tuple(
        RankLook(node=_NODE, rank=rank, world_size=ranks, state=ProcessState.GONE)
        for rank in range(ranks)
        if rank not in there
    )
    return Snapshot(seconds=0.0, ranks=(*looks, *gone), unseen=unseen)
