"""Which rank holds up a job: a pure function of what was seen.

Each detector looks at one kind of hang and answers only if its sources were read. They are asked in an order in which
the more direct evidence comes first: a stopped process, calls that do not match, an ended process, and then who waits
for whom. What was not seen is named, and never taken for progress.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from runner.hang.activity import Doing
from runner.hang.answer import Answer
from runner.hang.findings import HangKind, HangVerdict, RankRow
from runner.hang.mismatch import mismatches, off_course
from runner.hang.model import CallState, CollectiveCall, RankLook, RasReport, Snapshot, Unseen
from runner.hang.standing import RankStanding, joining, members_of, standings, world_size
from runner.hang.wording import row_of, sentence_of

_ENTRY = "nccl-collective-timeout"
_ENTRIES = {
    HangKind.MOVING: "straggler-rank",
    HangKind.JOINING: "rendezvous-failure",
}
_DEVICES: Literal["GPU or network"] = "GPU or network"


Ranks = Mapping[int, RankStanding]


def judge_hang(snapshot: Snapshot) -> tuple[HangVerdict, ...]:
    """One verdict for each job in the snapshot, those that hang first."""
    jobs: dict[str, list[RankLook]] = {}
    for look in snapshot.ranks:
        jobs.setdefault(look.job, []).append(look)
    verdicts = [_verdict(job, looks, snapshot) for job, looks in jobs.items()]
    calm = {HangKind.MOVING: 2, HangKind.UNKNOWN: 1}
    return tuple(sorted(verdicts, key=lambda one: (calm.get(one.kind, 0), one.job)))


def _verdict(job: str, looks: Sequence[RankLook], snapshot: Snapshot) -> HangVerdict:
    ranks = standings(looks)
    answer = next((found for detect in _DETECTORS if (found := detect(ranks)) is not None), None)
    answer = answer or Answer(HangKind.UNKNOWN)
    if snapshot.ras is not None and _is_of(snapshot.ras, ranks):
        answer = _with_ras(answer, snapshot.ras, ranks)
    numberless = [
        RankRow(
            rank=None,
            node=look.node,
            pid=look.pid,
            does="has no valid RANK in its environment",
            culprit=False,
        )
        for look in looks
        if look.rank is None
    ]
    rows = [row_of(one, culprit=one.rank in answer.culprits) for one in ranks.values()]
    return HangVerdict(
        job=job,
        kind=answer.kind,
        culprits=answer.culprits,
        certain=answer.certain,
        side=_side(answer, ranks),
        sentence=sentence_of(answer, ranks, snapshot),
        rows=(*sorted(rows, key=lambda row: not row.culprit), *numberless),
        entry=_entry(answer, ranks),
        unseen=(*snapshot.unseen, *_unseen_of(looks)),
    )


def _is_of(ras: RasReport, ranks: Ranks) -> bool:
    """Whether this is the answer of this job: all jobs of a node share one port."""
    pids = {one.look.pid for one in ranks.values()}
    return ras.world in {None, world_size(ranks)} and (not ras.pids or bool(pids & set(ras.pids)))


def _with_ras(answer: Answer, ras: RasReport, ranks: Ranks) -> Answer:
    """What NCCL counts makes a rank the most likely one where nothing else names one."""
    silent = tuple(rank for rank in ras.silent_ranks if rank in ranks)
    behind = tuple(rank for rank in ras.behind_ranks if rank in ranks)
    if answer.kind is HangKind.SAME_PLACE and silent:
        return replace(answer, culprits=silent)
    # Counts of a job that goes on differ too.
    still = not any(one.moved for one in ranks.values())
    if answer.kind is HangKind.UNKNOWN and behind and still:
        waiting = tuple(rank for rank in ranks if rank not in behind)
        return replace(answer, kind=HangKind.LATE, culprits=behind, waiting=waiting)
    return answer


def _side(answer: Answer, ranks: Ranks) -> Literal["CPU", "GPU or network"] | None:
    if answer.kind in {HangKind.SAME_PLACE, HangKind.NOT_STARTED}:
        return _DEVICES
    culprits = _these(answer.culprits, ranks)
    if answer.kind is HangKind.LATE and all(one.now and one.now.doing is Doing.GPU_WAIT for one in culprits):
        return _DEVICES
    return "CPU" if culprits else None


def _entry(answer: Answer, ranks: Ranks) -> str | None:
    doing = {one.now.doing for one in _these(answer.culprits or ranks, ranks) if one.now is not None}
    if answer.kind in {HangKind.LATE, HangKind.UNKNOWN} and doing == {Doing.COMPILING}:
        return "torch-compile-hang"
    return _ENTRIES.get(answer.kind, None if answer.kind is HangKind.UNKNOWN else _ENTRY)


def _unseen_of(looks: Iterable[RankLook]) -> list[Unseen]:
    return list(dict.fromkeys(one for look in looks for one in look.unseen))


def _these(numbers: Iterable[int], ranks: Ranks) -> list[RankStanding]:
    return [ranks[number] for number in numbers if number in ranks]


def _waiting(ranks: Ranks) -> tuple[int, ...]:
    return tuple(rank for rank, one in ranks.items() if one.waits)


def _stopped(ranks: Ranks) -> Answer | None:
    stopped = tuple(rank for rank, one in ranks.items() if one.stopped)
    if not stopped:
        return None
    waiting = _waiting(ranks)
    return Answer(HangKind.STOPPED, stopped, bool(waiting), _common(_these(waiting, ranks)), waiting)


def _mismatched(ranks: Ranks) -> Answer | None:
    for one in mismatches(ranks):
        waiting = tuple(r for r in members_of(one.group, ranks) if r not in one.culprits and r in ranks)
        return Answer(one.kind, one.culprits, one.certain, one.expected, waiting, one)
    return None


def _ended(ranks: Ranks) -> Answer | None:
    ended = tuple(rank for rank, one in ranks.items() if one.ended)
    waiting = _waiting(ranks)
    if not ended or not waiting:
        return None
    return Answer(HangKind.GONE, ended, True, _common(_these(waiting, ranks)), waiting)


def _moving(ranks: Ranks) -> Answer | None:
    """Progress of the flight recorder is progress of the job; else every rank has to move by its stacks."""
    recorded = [one for one in ranks.values() if one.look.before is not None and one.recorded]
    if any(one.moved for one in recorded):
        return Answer(HangKind.MOVING, certain=True)
    if recorded or not ranks:
        return None
    moved = [one.moved for one in ranks.values()]
    if any(moved) and not any(one is False for one in moved):
        return Answer(HangKind.MOVING, certain=all(moved))
    return None


def _joining(ranks: Ranks) -> Answer | None:
    there = joining(ranks.values())
    if not there:
        return None
    others = tuple(rank for rank, one in ranks.items() if one not in there)
    unseen = _not_looked_at(ranks)
    return Answer(HangKind.JOINING, others, waiting=tuple(one.rank for one in there), unseen_ranks=unseen)


def _behind(ranks: Ranks) -> Answer | None:
    """By flight recorder: each blocked rank waits for the members of its group that have not come as far."""
    awaited: dict[int, list[RankStanding]] = {}
    blocked: dict[str, list[tuple[int, RankStanding]]] = {}
    for one in ranks.values():
        if one.recorded and one.waits is not False and one.pending is not None:
            blocked.setdefault(one.pending.group, []).append((one.pending.seq, one))
    # A group at a time: a job of a thousand ranks has a million pairs of them.
    for group, waiting in blocked.items():
        for rank in members_of(group, ranks) & ranks.keys():
            if ranks[rank].recorded:
                came = ranks[rank].reached(group)
                awaited.setdefault(rank, []).extend(one for seq, one in waiting if came < seq)
    awaited = {rank: by for rank, by in awaited.items() if by}
    if not awaited:
        return None
    waiters = {one.rank for by in awaited.values() for one in by}
    roots = {rank: by for rank, by in awaited.items() if rank not in waiters}
    return _late(roots, ranks) if roots else _crossed(awaited, ranks)


def _late(roots: Mapping[int, Sequence[RankStanding]], ranks: Ranks) -> Answer:
    first = max(roots.values(), key=len)
    certain = all(ranks[rank].waits is False for rank in roots) and any(one.waits for one in first)
    waiting = tuple(sorted({one.rank for by in roots.values() for one in by}))
    return Answer(HangKind.LATE, tuple(sorted(roots)), certain, first[0].pending, waiting)


def _crossed(awaited: Mapping[int, Sequence[RankStanding]], ranks: Ranks) -> Answer:
    """Ranks that wait for each other in different groups: one of them went past a call.

    That is the one whose last step differs from what all ranks did before; without such a history, the one for which
    most ranks wait.
    """
    most = max(len(by) for by in awaited.values())
    wanted = {rank for rank, by in awaited.items() if len(by) == most}
    strayed = off_course(ranks) & awaited.keys()
    culprits = tuple(sorted(strayed or wanted))
    waiting = awaited[culprits[0]]
    names = tuple(one.rank for one in waiting)
    return Answer(HangKind.SKIPPED, culprits, len(strayed) == 1, waiting[0].pending, names)


def _go_on(waiting: Sequence[int], ranks: Ranks) -> bool:
    """Whether the ranks that were seen waiting may have been seen in several waits: no sign of a hang."""
    return all(ranks[rank].woke and not ranks[rank].recorded for rank in waiting)


def _outside(ranks: Ranks) -> Answer | None:
    """By stacks: most ranks are in a collective and some are not."""
    waiting = _waiting(ranks)
    outside = tuple(rank for rank, one in ranks.items() if one.waits is False)
    if not waiting or not outside or _go_on(waiting, ranks):
        return None
    # Of several ranks outside, some may only be on their way: stacks do not tell the groups.
    known = len(outside) == 1 and len(waiting) + 1 == len(ranks) == world_size(ranks)
    blocked = all(ranks[rank].look.still or ranks[rank].tells_progress for rank in waiting)
    return Answer(HangKind.LATE, outside, known and blocked, _common(_these(waiting, ranks)), waiting)


def _elsewhere(ranks: Ranks) -> Answer | None:
    """By stacks: all ranks are in collectives, of different lines of the program."""
    if not ranks or any(one.now is None or one.now.doing is not Doing.COLLECTIVE for one in ranks.values()):
        return None
    places: dict[object, list[int]] = {}
    for rank, one in ranks.items():
        places.setdefault((one.now.op, one.now.site) if one.now else None, []).append(rank)
    ordered = sorted(places.values(), key=len)
    if len(ordered) == 1 or any(one.recorded for one in ranks.values()):
        return None
    culprits = tuple(ordered[0]) if len(ordered[0]) < len(ordered[1]) else tuple(ranks)
    return Answer(HangKind.OTHER_OP, culprits, waiting=tuple(ordered[-1]))


def _together(ranks: Ranks) -> Answer | None:
    """All are in the same collective: a rank that was not looked at, a GPU that has not begun, or links and kernels."""
    waiting = _waiting(ranks)
    if not waiting or len(waiting) < len(ranks):
        return None
    call = _common(list(ranks.values()))
    group = call.group if call else "0"
    unseen = tuple(sorted(members_of(group, ranks) - ranks.keys())) or _not_looked_at(ranks)
    if unseen:
        return Answer(HangKind.UNKNOWN, call=call, waiting=waiting, unseen_ranks=unseen)
    states = {
        rank: one.pending.state
        for rank, one in ranks.items()
        if one.pending is not None and one.tells_progress
    }
    late = tuple(rank for rank, state in states.items() if state is CallState.SCHEDULED)
    if late and len(late) < len(states) and CallState.STARTED in states.values():
        return Answer(HangKind.NOT_STARTED, late, True, call, tuple(r for r in waiting if r not in late))
    return Answer(HangKind.SAME_PLACE, (), False, call, waiting)


def _common(ranks: Sequence[RankStanding]) -> CollectiveCall | None:
    """The collective that blocks most of these ranks."""
    calls = [one.pending for one in ranks if one.pending is not None]
    numbers = [(call.group, call.seq) for call in calls]
    return max(calls, key=lambda call: numbers.count((call.group, call.seq)), default=None)


def _not_looked_at(ranks: Ranks) -> tuple[int, ...]:
    size = world_size(ranks)
    return tuple(rank for rank in range(size) if rank not in ranks) if size is not None else ()


_DETECTORS: tuple[Callable[[Ranks], Answer | None], ...] = (
    _stopped,
    _mismatched,
    _ended,
    _moving,
    _joining,
    _behind,
    _outside,
    _elsewhere,
    _together,
)
