"""Ranks that call different collectives under the same number: which of them differs, and how. Pure.

The calls of one group are compared number by number, as NCCL and gloo match them. Who is wrong is decided by what all
ranks did before: in a training loop the same calls follow each other. Without such a history the majority is right.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from runner.hang.findings import HangKind
from runner.hang.model import CallState, CollectiveCall
from runner.hang.standing import Standing, groups_of

# How often something followed before it counts as a rule, and in which share of the cases.
_FEWEST, _SHARE = 2, 0.9
_MAJORITY_OF = 3
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
        certain: whether history or a clear majority decides, and neither contradicts.
    """

    group: str
    seq: int
    culprits: tuple[int, ...]
    call: CollectiveCall
    expected: CollectiveCall
    kind: HangKind
    certain: bool


def mismatches(ranks: Mapping[int, Standing]) -> tuple[Mismatch, ...]:
    """The first mismatch of each group that has one, the certain ones first."""
    found = [one for group in groups_of(ranks) if (one := _in_group(group, ranks.values())) is not None]
    return tuple(sorted(found, key=lambda one: not one.certain))


def order_of_program(call: CollectiveCall) -> Hashable:
    """What tells the calls of a program apart: the line that makes them, or else operation and sizes."""
    if call.site is not None:
        return (call.op, call.site.file, call.site.line)
    return (call.op, call.inputs, call.outputs)


def _in_group(group: str, ranks: Iterable[Standing]) -> Mismatch | None:
    made = {
        one.rank: {call.seq: call for call in one.calls if call.group == group}
        for one in ranks
        if group in one.latest
    }
    last = [max(calls) for calls in made.values()]
    # A call behind all ranks has matched.
    for seq in range(min(last), max(last) + 1) if last else ():
        here = {rank: calls[seq] for rank, calls in made.items() if seq in calls}
        if all(call.state is CallState.COMPLETED for call in here.values()):
            continue
        for comparable, kind in ((_operation, HangKind.OTHER_OP), (_tensors, HangKind.OTHER_SIZE)):
            if len({comparable(call) for call in here.values()}) > 1:
                return _judged(group, seq, here, made, kind)
    return None


def _operation(call: CollectiveCall) -> Hashable:
    return call.op


def _tensors(call: CollectiveCall) -> Hashable:
    if call.op in _BY_INPUT:
        return (call.inputs, call.dtypes)
    if call.op in _BY_OUTPUT:
        return (call.outputs, call.dtypes)
    return None


def _judged(
    group: str,
    seq: int,
    here: Mapping[int, CollectiveCall],
    made: Mapping[int, Mapping[int, CollectiveCall]],
    kind: HangKind,
) -> Mismatch:
    by_size = kind is HangKind.OTHER_SIZE
    key = _tensors if by_size else order_of_program
    follows = _follows(made.values(), seq)
    # The call before is the same on every rank.
    previous = next((calls[seq - 1] for calls in made.values() if seq - 1 in calls), None)
    if by_size:
        usual = _usual(_sizes_at_its_line(here, seq, made))
    else:
        usual = _usual(follows.get(order_of_program(previous))) if previous is not None else None
    counts = Counter(key(call) for call in here.values())
    (most, votes), *others = counts.most_common()
    majority = most if not others or votes > others[0][1] else None
    right = usual if usual in counts else majority
    certain = right is not None and (
        (right == usual and majority in {None, right})
        or (usual is None and len(here) >= _MAJORITY_OF and right == majority)
    )
    if right is None:
        # Two ranks and no history: either may be wrong.
        right = most
    culprits = tuple(rank for rank, call in here.items() if key(call) != right)
    call = here[culprits[0]]
    expected = next(call for call in here.values() if key(call) == right)
    if not by_size and _usual(follows.get(order_of_program(expected))) == order_of_program(call):
        kind = HangKind.SKIPPED
    return Mismatch(group, seq, culprits, call, expected, kind, certain)


def off_course(ranks: Mapping[int, Standing]) -> frozenset[int]:
    """The ranks whose last call is not the one that used to follow the call before it, in the order of the program."""
    made = {rank: [(call.group, order_of_program(call)) for call in one.calls] for rank, one in ranks.items()}
    follows: dict[Hashable, Counter[Hashable]] = {}
    for calls in made.values():
        for before, after in pairwise(calls[:-1]):
            follows.setdefault(before, Counter())[after] += 1
    found = set()
    for rank, calls in made.items():
        if len(calls) > 1 and (usual := _usual(follows.get(calls[-2]))) is not None and usual != calls[-1]:
            found.add(rank)
    return frozenset(found)


def _follows(made: Iterable[Mapping[int, CollectiveCall]], before: int) -> dict[Hashable, Counter[Hashable]]:
    """What followed each call of the group on any rank, below the number `before`."""
    found: dict[Hashable, Counter[Hashable]] = {}
    for calls in made:
        for seq, call in calls.items():
            if seq + 1 < before and seq + 1 in calls:
                found.setdefault(order_of_program(call), Counter())[order_of_program(calls[seq + 1])] += 1
    return found


def _sizes_at_its_line(
    here: Mapping[int, CollectiveCall], seq: int, made: Mapping[int, Mapping[int, CollectiveCall]]
) -> Counter[Hashable]:
    """The sizes of earlier calls from the same line, or of the same operation if lines are not recorded."""

    def line(call: CollectiveCall) -> Hashable:
        return (call.op, call.site)

    lines = {line(call) for call in here.values()}
    return Counter(
        _tensors(call)
        for calls in made.values()
        for number, call in calls.items()
        if number < seq and line(call) in lines
    )


def _usual(counts: Counter[Hashable] | None) -> Hashable | None:
    """The one that nearly always came; None if there is none, or too few came."""
    if not counts:
        return None
    (most, times) = counts.most_common(1)[0]
    return most if times >= _FEWEST and times >= _SHARE * counts.total() else None
