"""Helpers for messages: suggest a known word, and count a noun."""

import difflib
from collections.abc import Iterable


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
