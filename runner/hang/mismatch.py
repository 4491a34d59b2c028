"""Ranks that call different collectives under the same number: which of them differs, and how. Pure.

The calls of one group are compared number by number, as NCCL and gloo match them. Who is wrong is decided by what all
ranks did before: in a training loop the same calls follow each other. Without such a history the majority is right.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise

from runner.hang.findings import HangKind
from runner.hang.model import CallState, CollectiveCall
from runner.hang.standing import RankStanding, groups_of

# How often something followed before it counts as a rule, and in which share of the cases.
_FEWEST, _SHARE = 2, 0.9
# The longest run of calls that is compared with the past.
_LONGEST = 8
_MAJORITY_OF = 3
# Ranks of a large job whose past is asked where a rank's own is too short.
_ASKED = 32
# Operations whose tensors may differ from rank to rank; of others, the tensors that must be equal.
_BY_INPUT = {
    "all_reduce",
    "allreduce",
    "_all_reduce",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
}
_BY_OUTPUT = {"all_gather", "allgather", "_all_gather_base"}


@dataclass(frozen=True)
class Mismatch:
    """A number under which ranks made different calls.

    Attributes:
        group, seq: the group and the number of the call.
        culprits: the ranks that differ.
        call: what they called.
        expected: what the others called.
        kind: SKIPPED, OTHER_OP or OTHER_SIZE.
        decided: whether anything tells who is wrong; else all ranks of the call are culprits.
        certain: whether history or a clear majority decides, and neither contradicts.
    """

    group: str
    seq: int
    culprits: tuple[int, ...]
    call: CollectiveCall
    expected: CollectiveCall
    kind: HangKind
    decided: bool
    certain: bool


def mismatches(ranks: Mapping[int, RankStanding]) -> tuple[Mismatch, ...]:
    """The first mismatch of each group that has one, the certain ones first."""
    found = [one for group in groups_of(ranks) if (one := _in_group(group, ranks.values())) is not None]
    return tuple(sorted(found, key=lambda one: not one.certain))


def order_of_program(call: CollectiveCall) -> Hashable:
    """What tells the calls of a program apart: the line that makes them, or else operation and sizes."""
    if call.site is not None:
        return (call.op, call.site.file, call.site.line)
    return (call.op, call.inputs, call.outputs, call.dtypes)


def _in_group(group: str, ranks: Collection[RankStanding]) -> Mismatch | None:
    made = {
        one.rank: {call.seq: call for call in one.calls if call.group == group}
        for one in ranks
        if group in one.latest
    }
    # What all ranks have passed has matched. NCCL runs behind the program, which calls on.
    passed = min((_open(one, group) for one in ranks if one.rank in made), default=0)
    for seq in sorted({number for calls in made.values() for number in calls if number >= passed}):
        here = {rank: calls[seq] for rank, calls in made.items() if seq in calls}
        if all(call.state is CallState.COMPLETED for call in here.values()):
            continue
        if len({call.op for call in here.values()}) > 1:
            return _judged(group, _origin(seq, here, made), made, HangKind.OTHER_OP)
        if len({_tensors(call) for call in here.values()}) > 1:
            return _judged(group, _origin(seq, here, made), made, HangKind.OTHER_SIZE)
    return None


def _open(one: RankStanding, group: str) -> int:
    """The number of the first call of a group that this rank may not have ended."""
    if one.tells_progress:
        for call in one.calls:
            if call.group == group and call.state is not CallState.COMPLETED:
                return call.seq
    return one.latest[group].seq


_Calls = Mapping[int, Mapping[int, CollectiveCall]]


def _origin(seq: int, here: Iterable[int], made: _Calls) -> int:
    """Where the ranks parted: calls of different lines match as long as operation and size happen to be equal."""
    ranks = tuple(here)
    while all(seq - 1 in made[rank] for rank in ranks):
        if len({order_of_program(made[rank][seq - 1]) for rank in ranks}) == 1:
            break
        seq -= 1
    return seq


def _tensors(call: CollectiveCall) -> Hashable:
    if call.op in _BY_INPUT:
        return (call.inputs, call.dtypes)
    if call.op in _BY_OUTPUT:
        return (call.outputs, call.dtypes)
    return None


def _judged(group: str, seq: int, made: _Calls, kind: HangKind) -> Mismatch:
    here = {rank: calls[seq] for rank, calls in made.items() if seq in calls}
    if len({call.site for call in here.values()}) > 1:
        kind = HangKind.OTHER_OP
    # Without lines, sizes are part of what tells calls apart.
    by_size = kind is HangKind.OTHER_SIZE and all(call.site is not None for call in here.values())
    key = _tensors if by_size else order_of_program
    past = {rank: [calls[number] for number in sorted(calls) if number < seq] for rank, calls in made.items()}
    usual = {rank: (_usual_size if by_size else _usual_call)(rank, here[rank], past) for rank in here}
    strayed = {rank for rank in here if usual[rank] is not None and usual[rank] != key(here[rank])}
    loyal = {rank for rank in here if usual[rank] == key(here[rank])}
    majority = _majority([key(call) for call in here.values()])
    outvoted = {rank for rank in here if majority is not None and key(here[rank]) != majority}
    by_past = bool(strayed) and strayed | loyal == here.keys() and bool(loyal)
    culprits = sorted(strayed if by_past else outvoted or here)
    certain = outvoted <= strayed if by_past else bool(outvoted) and not strayed and len(here) >= _MAJORITY_OF
    call = here[culprits[0]]
    expected = next(one for one in here.values() if key(one) != key(call))
    if not by_size and _goes_on(call, expected, past):
        kind = HangKind.SKIPPED
    return Mismatch(group, seq, tuple(culprits), call, expected, kind, by_past or bool(outvoted), certain)


def _majority(keys: Sequence[Hashable]) -> Hashable | None:
    (most, votes), *others = Counter(keys).most_common()
    return most if not others or votes > others[0][1] else None


def _usual_call(
    rank: int, _: CollectiveCall, past: Mapping[int, Sequence[CollectiveCall]]
) -> Hashable | None:
    """The call that used to follow what this rank did before; by the past of all ranks if its own is too short."""
    own = _program(past[rank])
    return _expected(own, (own,)) or _expected(own, map(_program, islice(past.values(), _ASKED)))


def _usual_size(
    rank: int, here: CollectiveCall, past: Mapping[int, Sequence[CollectiveCall]]
) -> Hashable | None:
    """The sizes that the same line used to have on this rank, or on all ranks if this one has not called it yet."""
    for calls in (past[rank], chain.from_iterable(islice(past.values(), _ASKED))):
        sizes = Counter(_tensors(call) for call in calls if (call.op, call.site) == (here.op, here.site))
        if sizes:
            return _usual(sizes)
    return None


def _goes_on(
    call: CollectiveCall, expected: CollectiveCall, past: Mapping[int, Sequence[CollectiveCall]]
) -> bool:
    """Whether the call is one that came after the expected one before, so that only that one is missing."""
    pair = (order_of_program(expected), order_of_program(call))
    return any(pair in pairwise(map(order_of_program, calls)) for calls in past.values())


def _program(calls: Iterable[CollectiveCall]) -> list[Hashable]:
    return [order_of_program(call) for call in calls]


def off_course(ranks: Mapping[int, RankStanding]) -> frozenset[int]:
    """The ranks one of whose latest calls is not the one that used to follow the calls before it.

    Calls are taken in the order of the program. A rank that left out a call may have gone on a little: its next calls
    are in groups whose members it does not keep waiting.
    """
    made = {rank: [(call.group, order_of_program(call)) for call in one.calls] for rank, one in ranks.items()}
    found = frozenset(rank for rank in made if _strayed(rank, made))
    # A phase that is new to all, such as an evaluation, says nothing about one.
    return found if len(found) <= len(made) / 2 else frozenset()


def _strayed(rank: int, made: Mapping[int, Sequence[Hashable]]) -> bool:
    calls = made[rank]
    for at in range(max(1, len(calls) - _LONGEST), len(calls)):
        # Ranks have groups of their own, so a rank's own past comes first.
        past = calls[:at]
        usual = _expected(past, (past,)) or _expected(
            past, (one[:at] for one in islice(made.values(), _ASKED))
        )
        if usual is not None and usual != calls[at]:
            return True
    return False


def _expected(context: Sequence[Hashable], histories: Iterable[Sequence[Hashable]]) -> Hashable | None:
    """What used to follow these calls; None if there is no rule.

    A longer context is asked only where a shorter one was followed by different calls: loops repeat lines.
    """
    pasts = list(histories)
    for length in range(1, min(len(context), _LONGEST) + 1):
        end = tuple(context[-length:])
        counts = Counter(
            past[at + length]
            for past in pasts
            for at in range(len(past) - length)
            if tuple(past[at : at + length]) == end
        )
        if (usual := _usual(counts)) is not None:
            return usual
        if counts.total() < _FEWEST:
            return None
    return None


def _usual(counts: Counter[Hashable] | None) -> Hashable | None:
    """The one that nearly always came; None if there is none, or too few came."""
    if not counts:
        return None
    (most, times) = counts.most_common(1)[0]
    return most if times >= _FEWEST and times >= _SHARE * counts.total() else None
