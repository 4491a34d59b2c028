"""A redaction rule, and parts of patterns that several rules share."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# (start, end, replacement), in order, without overlap.
Finds = Iterable[tuple[int, int, str]]
# What searches a text, given also in lower case.
Finder = Callable[[str, str], Finds]
# Finders that are tried one after the other if one of the words is in the lower-case text, or if there are no words.
Group = tuple[tuple[str, ...], tuple[Finder, ...]]
# Given a find and the text before it: whether it is harmless.
Unless = Callable[[str, str], bool]

HEX = "[0-9A-Fa-f]"
ALONE = r"(?<![0-9A-Za-z])"
END = r"(?![0-9A-Za-z])"
# A quote, plain or escaped in a JSON string, or none.
QUOTE = r"\\{0,2}[\"']?"
# Between an option and its value, on a command line or in a printed list of Python or JSON.
NEXT = rf"(?:[ \t=]{{1,4}}|\\{{0,2}}[\"'],[ \t]{{0,4}}){QUOTE}"


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as text."""
    return frozenset(text.split())


def assigned(sign: str) -> str:
    """The pattern between a name and its value, in a shell, YAML, JSON, or JSON inside a string."""
    return rf"{QUOTE}[ \t]{{0,40}}+{sign}[ \t]{{0,40}}+(?>(?:\\{{0,2}}[\"'])?)"


IS = assigned("[:=]")


def assignments(names: str) -> str:
    """The hint for assignments to one of these names, which are separated by `|`."""
    return "|".join(f"{name}=" for name in names.lower().split("|"))


def holds_one(text: str, words: tuple[str, ...]) -> bool:
    """Whether one of the words is in a text."""
    # A plain loop: a generator costs more than most of the searches.
    for word in words:  # noqa: SIM110
        if word in text:
            return True
    return False


@dataclass(frozen=True)
class Rule:
    """One kind of text to redact.

    Attributes:
        placeholder: the replacement.
        hint: lower-case words, separated by `|`, of which one must occur (in any case) for the rule to apply, or a
            faster pattern for the lower-case text.
        form: the pattern. Its group is replaced, or all of it if it has none; what is replaced never matches its own
            placeholder.
        unless: whether a find is harmless.
        shortest: the minimum length of a text that can match.
    """

    placeholder: str
    hint: str | re.Pattern[str]
    form: str
    unless: Unless | None = None
    shortest: int = 0

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled form."""
        return re.compile(self.form, re.MULTILINE)

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the hint; none if it is a pattern."""
        return tuple(self.hint.split("|")) if isinstance(self.hint, str) else ()

    def __call__(self, text: str, lowered: str) -> Finds:
        """The finds in a text."""
        if len(text) < self.shortest:
            return ()
        hinted = holds_one(lowered, self.words) if isinstance(self.hint, str) else self.hint.search(lowered)
        return self._finds(text) if hinted else ()

    def _finds(self, text: str) -> Iterator[tuple[int, int, str]]:
        group = self.pattern.groups
        for match in self.pattern.finditer(text):
            start, end = match.span(group)
            if self.unless is None or not self.unless(match[group], text[max(0, start - 64) : start]):
                yield start, end, self.placeholder


def grouped(*members: Rule) -> Group:
    """Rules behind one quick test: most text needs no rule, and testing a group costs less than testing each rule.

    All hints must be words. Words that contain another one are redundant.
    """
    words = {word for rule in members for word in rule.words}
    return tuple(sorted(word for word in words if not any(o in word for o in words - {word}))), members


def each_alone(*members: Rule) -> tuple[Group, ...]:
    """Each rule as a group of its own."""
    return tuple(((), (rule,)) for rule in members)
