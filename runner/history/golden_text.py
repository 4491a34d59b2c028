"""A comparison of settings in sentences, with the nodes named as the reader knows them. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile

from runner.base.plain import one_line
from runner.base.words import counted, first_of_many
from runner.history.campaigns import Distribution
from runner.history.golden import ComparedSetting, HeldValue

# Says which nodes: `gpu-[001-003,7]`, or aliases.
NamesNodes = Callable[[Sequence[str]], str]
MOST_DIFFERING = 40
_MOST_VALUES, _MOST_NAMES, _LONGEST_VALUE = 5, 5, 100
_TWO = 2


def setting_sentences(compared: Sequence[ComparedSetting], named: NamesNodes) -> Iterator[str]:
    """One line for each setting that differs, the most suspicious first, then what is not known, and what is equal.

    Args:
        compared: in the order of `compare_settings`.
        named: says which nodes.
    """
    kinds = {one.kind for one in compared}
    differ = [one for one in compared if len(one.held) > 1]
    for one in differ[:MOST_DIFFERING]:
        yield _prefix(one, kinds) + _differing(one, named)
    if len(differ) > MOST_DIFFERING:
        yield f"{counted(len(differ) - MOST_DIFFERING, 'more setting')} differ"
    blind: dict[tuple[str, tuple[str, ...]], list[ComparedSetting]] = defaultdict(list)
    for one in compared:
        if one.unknown and len(one.held) < _TWO:
            blind[one.kind, one.unknown].append(one)
    for (_, nodes), settings in list(blind.items())[:MOST_DIFFERING]:
        names = first_of_many([one_line(one.name) for one in settings], _MOST_NAMES)
        where = f"{len(nodes)} of {settings[0].nodes} nodes ({named(nodes)})"
        yield f"{_prefix(settings[0], kinds)}not known on {where}: {names}"
    equal = sum(one.equal and not one.unknown for one in compared)
    if equal:
        where = "all nodes" if len(kinds) == 1 else "all nodes of a kind"
        yield f"{counted(equal, 'setting')} {'is' if equal == 1 else 'are'} equal on {where}"


def _prefix(one: ComparedSetting, kinds: set[str]) -> str:
    return f"{one.kind}: " if len(kinds) > 1 else ""


def _differing(one: ComparedSetting, named: NamesNodes) -> str:
    """`driver: 580.95.05 on 498 of 500 nodes; 570.86.15 on 2 (gpu-017, gpu-201)`."""
    shown = _short([held.value for held in one.held])
    most = one.majority
    if most:
        said = f"{shown[most.value]} on {len(most.nodes)} of {one.nodes} nodes; {_values(one.others, shown, named)}"
    elif one.known == _TWO:
        values = ", ".join(f"{shown[held.value]} ({named(held.nodes)})" for held in one.held)
        said = f"{'the' if one.nodes == _TWO else 'only'} 2 nodes{_tell(one)} differ: {values}"
    else:
        said = f"no clear majority of {one.nodes} nodes: {_values(one.held, shown, named)}"
    if one.unknown:
        said += f"; not known on {len(one.unknown)} ({named(one.unknown)})"
    return f"{one_line(one.name)}: {said}"


def _tell(one: ComparedSetting) -> str:
    return " tell it and" if one.unknown else ""


def _values(held: Sequence[HeldValue], shown: dict[str, str], named: NamesNodes) -> str:
    said = [f"{shown[one.value]} on {len(one.nodes)} ({named(one.nodes)})" for one in held[:_MOST_VALUES]]
    more = len(held) - _MOST_VALUES
    return "; ".join(said) + (f"; and {counted(more, 'more value')}" if more > 0 else "")


def _short(values: Sequence[str]) -> dict[str, str]:
    """Values for a reader: of long ones, the common beginning is left out, where they do not differ."""
    lines = [one_line(value) for value in values]
    if max(map(len, lines), default=0) > _LONGEST_VALUE:
        words = [line.split(" ") for line in lines]
        common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False)))
        rests = [" ".join(one[common:]) for one in words]
        lines = [("… " if common else "") + _cut(rest) for rest in rests]
    return dict(zip(values, lines, strict=True))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} …"


def also_differ(found: Distribution, compared: Iterable[ComparedSetting]) -> str | None:
    """In which settings all suspects of a distribution differ from most nodes; None if there is none.

    That the same nodes differ in both is a lead, and no proof of a cause.

    Returns:
        `these 2 nodes also differ from most in driver (570.86.15, 2 of 500 nodes differ)`.
    """
    odd = {one.alias for one in found.suspects}
    shared = [one for one in compared if odd and odd <= one.differing]
    if not shared:
        return None
    said = [
        f"{one_line(one.name)} ({_values_of(one, odd)}; {len(one.differing)} of {one.nodes} nodes differ)"
        for one in shared
    ]
    who = "this node also differs" if len(odd) == 1 else f"these {len(odd)} nodes also differ"
    return f"{who} from most in {first_of_many(said, _MOST_NAMES)}"


def _values_of(one: ComparedSetting, odd: set[str]) -> str:
    shown = _short([held.value for held in one.held])
    return " or ".join(shown[held.value] for held in one.others if odd & set(held.nodes))
