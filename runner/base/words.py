"""Helpers for messages: suggest a known word, count a noun or what is left out, name labels."""

import difflib
from collections.abc import Iterable, Mapping
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
    ordered = sorted(set(numbers))
    starts = ordered[:1] + [after for before, after in pairwise(ordered) if after != before + 1]
    ends = [before for before, after in pairwise(ordered) if after != before + 1] + ordered[-1:]
    spans = [
        f"{start}" if start == end else f"{start}{'-' if end > start + 1 else ', '}{end}"
        for start, end in zip(starts, ends, strict=True)
    ]
    more = len(spans) - most
    return ", ".join(spans[:most]) + (f" and {counted(more, 'more range')}" if more > 0 else "")


def label_pairs(labels: Mapping[str, object]) -> str:
    """`bytes=8589934592, op=all_reduce`: labels as stored, by name."""
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
