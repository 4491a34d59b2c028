"""A verdict in words: one sentence, and one line for each rank. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runner.base.words import bracketed, counted, ranges
from runner.hang.activity import Doing, place_of
from runner.hang.answer import Answer
from runner.hang.findings import HangKind, RankRow
from runner.hang.model import CollectiveCall, Snapshot
from runner.hang.standing import RankStanding

_FEW = 4
_SIZES = 60
_UNDECIDED = "what was seen does not tell which is wrong"


def sentence_of(answer: Answer, ranks: Mapping[int, RankStanding], snapshot: Snapshot) -> str:
    """The answer as one sentence, without a full stop at its end."""
    text = _SENTENCES[answer.kind](answer, ranks, snapshot)
    unsure = answer.culprits and not answer.certain and answer.kind is not HangKind.JOINING
    return f"most likely: {text}" if unsure else text


def row_of(one: RankStanding, *, culprit: bool) -> RankRow:
    """One rank for the table."""
    return RankRow(rank=one.rank, node=one.look.node, pid=one.look.pid, does=does(one), culprit=culprit)


def does(one: RankStanding) -> str:
    """What a rank does or waits for."""
    if one.ended:
        return "has ended"
    if one.stopped:
        return "is stopped"
    now, pending = one.now, one.pending
    where = f", {place_of(now.site)}" if now is not None and now.site is not None else ""
    if one.waits and pending is not None and (now is None or now.doing is not Doing.JOINING):
        return f"waits in {call_name(pending)}{where}"
    if now is not None and now.doing is Doing.COLLECTIVE:
        return f"waits in {now.op or 'a collective'}{where}"
    if now is not None:
        return f"{now.doing}: {place_of(now.site or now.frame)}"
    return f"last called {call_name(pending)}" if pending is not None else "was not seen"


def call_name(call: CollectiveCall) -> str:
    """`all_reduce #4821 of group 0`."""
    return f"{call.op} #{call.seq} of group {call.group}"


def ranks_named(numbers: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-12, 14-63`."""
    every = set(numbers)
    return f"{'rank' if len(every) == 1 else 'ranks'} {ranges(every)}"


def _named(numbers: Sequence[int], ranks: Mapping[int, RankStanding]) -> str:
    """The ranks with their nodes and process ids, if they are few."""
    text = ranks_named(numbers)
    looks = [ranks[number].look for number in numbers if number in ranks]
    if len(looks) == 1 and looks[0].pid is not None:
        return f"{text} ({looks[0].node}, pid {looks[0].pid})"
    nodes = dict.fromkeys(look.node for look in looks if look.node)
    return f"{text}{bracketed(', '.join(nodes))}" if 0 < len(nodes) <= _FEW else text


def _verb(answer: Answer, one: str, several: str) -> str:
    return one if len(answer.culprits) == 1 else several


def _in_call(answer: Answer, ranks: Mapping[int, RankStanding]) -> str:
    """The collective in which the others wait."""
    if answer.call is not None:
        return call_name(answer.call)
    ops = Counter(now.op for rank in answer.waiting if (now := ranks[rank].now) is not None and now.op)
    return f"{ops.most_common(1)[0][0]}" if ops else "a collective"


def _waiters(answer: Answer) -> str:
    number = len(answer.waiting)
    return f"{counted(number, 'rank')} {'waits' if number == 1 else 'wait'}"


def _stopped(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    text = f"{_named(answer.culprits, ranks)} {_verb(answer, 'is', 'are')} stopped"
    if not answer.waiting:
        return f"{text}; no rank was seen waiting"
    return f"{text}, and {_waiters(answer)} in {_in_call(answer, ranks)}"


def _gone(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    ended = f"{_named(answer.culprits, ranks)} {_verb(answer, 'has', 'have')} ended"
    return f"{ended}, and {_waiters(answer)} in {_in_call(answer, ranks)}; read the end of its log"


def _late(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    text = (
        f"{_named(answer.culprits, ranks)} {_verb(answer, 'has', 'have')} not entered {_in_call(answer, ranks)}, "
        f"in which {_waiters(answer)}"
    )
    now = ranks[answer.culprits[0]].now if answer.culprits[0] in ranks else None
    if now is None:
        return f"{text}; what it does was not seen"
    side = "" if now.doing is Doing.GPU_WAIT else ": CPU side"
    who = "it is" if len(answer.culprits) == 1 else f"rank {answer.culprits[0]} is"
    return f"{text}; {who} {now.doing}, {place_of(now.site or now.frame)}{side}"


def _skipped(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    call = answer.mismatch.expected if answer.mismatch else answer.call
    where = bracketed(place_of(call.site)) if call is not None and call.site else ""
    text = f"{_named(answer.culprits, ranks)} left out {_in_call(answer, ranks)}{where}, in which {_waiters(answer)}"
    went = answer.mismatch.call if answer.mismatch else ranks[answer.culprits[0]].pending
    site = bracketed(place_of(went.site)) if went is not None and went.site else ""
    return (
        f"{text}; {_verb(answer, 'it', 'they')} went on to {call_name(went)}{site}"
        if went is not None
        else text
    )


def _other_op(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    one = answer.mismatch
    if one is None:
        return (
            f"all ranks wait in collectives, but {_named(answer.culprits, ranks)} {_verb(answer, 'is', 'are')} "
            f"in another line of the program than the rest"
        )
    places = [bracketed(place_of(call.site)) if call.site else "" for call in (one.call, one.expected)]
    if not one.decided:
        return (
            f"{_named(answer.culprits, ranks)} made different calls as #{one.seq} of group {one.group}: "
            f"{one.call.op}{places[0]} and {one.expected.op}{places[1]}; {_UNDECIDED}"
        )
    return (
        f"{_named(answer.culprits, ranks)} called {one.call.op}{places[0]} as #{one.seq} of group {one.group}, "
        f"where the others called {one.expected.op}{places[1]}"
    )


def _other_size(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    one = answer.mismatch
    if one is None:
        return f"{_named(answer.culprits, ranks)} called a collective with another size than the others"
    if not one.decided:
        return (
            f"{_named(answer.culprits, ranks)} called {call_name(one.call)} with different sizes: "
            f"{_tensors(one.call)} and {_tensors(one.expected)}; {_UNDECIDED}"
        )
    return (
        f"{_named(answer.culprits, ranks)} called {call_name(one.call)} with {_tensors(one.call)}, "
        f"the others with {_tensors(one.expected)}"
    )


def _tensors(call: CollectiveCall) -> str:
    text = ", ".join("×".join(map(str, size)) or "a scalar" for size in call.inputs)
    kinds = "/".join(dict.fromkeys(call.dtypes))
    return f"{_cut(text)} {_cut(kinds)}".strip()


def _cut(text: str) -> str:
    return f"{text[:_SIZES]}…" if len(text) > _SIZES else text


def _not_started(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    return (
        f"the GPU of {_named(answer.culprits, ranks)} has not begun {_in_call(answer, ranks)}, which the GPUs of "
        f"{counted(len(answer.waiting), 'rank')} are in; earlier work on that GPU has not ended"
    )


def _same_place(answer: Answer, ranks: Mapping[int, RankStanding], snapshot: Snapshot) -> str:
    text = (
        f"{_all(answer)} in {_in_call(answer, ranks)} and none makes progress: a GPU, a link or the network"
    )
    if answer.culprits:
        return f"{text}; NCCL gets no answer from {_named(answer.culprits, ranks)}"
    nodes = dict.fromkeys(f"Xid {one.code} on {one.node}" for one in snapshot.xids)
    return f"{text}; {', '.join(list(nodes)[:_FEW])}" if nodes else text


def _joining(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    number, every = len(answer.waiting), counted(len(ranks) + len(answer.unseen_ranks), "rank")
    text = f"{number} of {every} {'waits' if number == 1 else 'wait'} to join"
    if answer.culprits:
        text = f"{text}; {_named(answer.culprits, ranks)} {_verb(answer, 'does', 'do')} not"
    return f"{text}; not seen: {ranks_named(answer.unseen_ranks)}" if answer.unseen_ranks else text


def _moving(_: Answer, ranks: Mapping[int, RankStanding], snapshot: Snapshot) -> str:
    what = "the job" if len(ranks) != 1 else "the rank"
    return f"{what} went on within {snapshot.seconds:.2g} s: no hang"


def _unknown(answer: Answer, ranks: Mapping[int, RankStanding], _: Snapshot) -> str:
    if answer.unseen_ranks and answer.waiting:
        number = len(answer.waiting)
        seen = "1 rank was seen, and it waits" if number == 1 else f"{number} ranks were seen, and all wait"
        were = "was" if len(answer.unseen_ranks) == 1 else "were"
        unseen = f"{ranks_named(answer.unseen_ranks)}, which {were} not seen"
        return f"{seen} in {_in_call(answer, ranks)}; look at {unseen}"
    if ranks and all(one.ended for one in ranks.values()):
        return f"no process is left of {_named(tuple(ranks), ranks)}"
    last = {one.calls[-1] if one.calls else None for one in ranks.values()}
    if len(ranks) > 1 and len(last) == 1 and (call := last.pop()) is not None:
        return f"all {len(ranks)} ranks made the same calls, up to {call_name(call)}; whether it ended was not recorded"
    woke = [rank for rank, one in ranks.items() if one.woke]
    if woke:
        return (
            f"{ranks_named(woke)} ran between waits, so the job may go on; look longer with --seconds 30, or start it "
            "with a flight recorder"
        )
    doing = Counter(now.doing for one in ranks.values() if (now := one.now) is not None)
    if set(doing) == {Doing.GPU_WAIT}:
        every = (
            "the one rank waits for its GPU"
            if len(ranks) == 1
            else f"all {len(ranks)} ranks wait for their GPUs"
        )
        return f"{every}; without a flight recorder or RAS, the cause is not seen"
    if doing and not any(one.waits for one in ranks.values()):
        told = ", ".join(f"{number} {what}" for what, number in doing.most_common())
        return f"no rank was seen waiting for another: {told}"
    return "what was seen does not tell which rank holds up the others" if ranks else "no rank was seen"


def _all(answer: Answer) -> str:
    number = len(answer.waiting)
    return "the one rank waits" if number == 1 else f"all {number} ranks wait"


_SENTENCES = {
    HangKind.MOVING: _moving,
    HangKind.UNKNOWN: _unknown,
    HangKind.LATE: _late,
    HangKind.STOPPED: _stopped,
    HangKind.GONE: _gone,
    HangKind.SKIPPED: _skipped,
    HangKind.OTHER_OP: _other_op,
    HangKind.OTHER_SIZE: _other_size,
    HangKind.NOT_STARTED: _not_started,
    HangKind.SAME_PLACE: _same_place,
    HangKind.JOINING: _joining,
}
