"""Helpers for messages: suggest a known word, count a noun or what is left out, fold numbers, name labels."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

_MOST_RANGES = 20


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or the list of all known words if none is close."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(words)})" if words else ""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 fault`, `2 faults`, `2 entries`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def and_more(count: int) -> str:
    """` (and 2 more)` after the first of three things; empty if there is only one."""
    return f" (and {count - 1} more)" if count > 1 else ""


def bracketed(text: str) -> str:
    """` (text)`, to follow another word; empty if the text is."""
    return f" ({text})" if text else ""


def ranges(numbers: Iterable[int], most: int = _MOST_RANGES) -> str:
    """`0-3, 7, 9, 12-14`, or the first `most` of many: `0, 2 and 498 more ranges`."""
    spans = [
        f"{start}" if start == end else f"{start}{'-' if end > start + 1 else ', '}{end}"
        for start, end in _spans(numbers)
    ]
    more = len(spans) - most
    return ", ".join(spans[:most]) + (f" and {counted(more, 'more range')}" if more > 0 else "")


def _spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last number of each run without a gap."""
    ordered = sorted(set(numbers))
    starts = ordered[:1] + [after for before, after in pairwise(ordered) if after != before + 1]
    ends = [before for before, after in pairwise(ordered) if after != before + 1] + ordered[-1:]
    return list(zip(starts, ends, strict=True))


def first_of_many(words: Sequence[str], most: int) -> str:
    """`a, b, c`, or the first `most` of more: `a, b and 498 more`."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


_NUMBERED = re.compile(r"(.*?)(\d{1,9})(\D*)", re.DOTALL)


def folded_names(names: Iterable[str], most: int = _MOST_RANGES) -> str:
    """Names of nodes, with runs of numbers folded as Slurm does: `gpu-[001-003,007], login1`.

    Numbers of one width with leading zeros are folded together; `most` limits the names and the ranges.
    """
    groups: dict[tuple[str, str, int], set[int]] = {}
    rest: list[str] = []
    matches = [(name, _NUMBERED.fullmatch(name)) for name in sorted(set(names))]
    padded = {(m[1], m[3], len(m[2])) for _, m in matches if m and m[2][0] == "0" and len(m[2]) > 1}
    for name, found in matches:
        if found is None:
            rest.append(name)
            continue
        place = (found[1], found[3], len(found[2]))
        groups.setdefault(place if place in padded else (*place[:2], 0), set()).add(int(found[2]))
    folded = [_folded(*place, numbers, most) for place, numbers in groups.items()]
    return first_of_many([*folded, *rest], most)


def _folded(before: str, after: str, width: int, numbers: set[int], most: int) -> str:
    spans = _spans(numbers)
    shown = [
        f"{start:0{width}}" if start == end else f"{start:0{width}}-{end:0{width}}" for start, end in spans
    ]
    inside = shown[0] if len(numbers) == 1 else f"[{','.join(shown[:most])}]"
    more = sum(end - start + 1 for start, end in spans[most:])
    return f"{before}{inside}{after}" + (f" and {more} more" if more else "")


def label_pairs(labels: Mapping[str, object]) -> str:
    """`bytes=8589934592, op=all_reduce`: labels as stored, by name."""
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
