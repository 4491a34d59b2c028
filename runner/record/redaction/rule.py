"""A redaction rule, and parts of patterns that several rules share."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEX = "[0-9A-Fa-f]"
ALONE = r"(?<![0-9A-Za-z])"
END = r"(?![0-9A-Za-z])"
# A quote, plain or escaped in a JSON string, or none.
QUOTE = r"\\{0,2}[\"']?"
# Between an option and its value, on a command line or in a printed list of Python or JSON.
NEXT = rf"(?:[ \t=]{{1,4}}|\\{{0,2}}[\"'],[ \t]{{0,4}}){QUOTE}"


def assigned(sign: str) -> str:
    """The pattern between a name and its value, in a shell, YAML, JSON, or JSON inside a string."""
    return rf"{QUOTE}[ \t]{{0,40}}+{sign}[ \t]{{0,40}}+(?>(?:\\{{0,2}}[\"'])?)"


IS = assigned("[:=]")


@dataclass(frozen=True)
class Rule:
    """One kind of text to redact.

    Attributes:
        hint: lower-case words of which one must occur (in any case) for the rule to apply, or a faster pattern for the
            lower-case text.
        placeholder: the replacement.
        head: the text before the body, which is kept.
        body: the text to redact; it never matches its own placeholder.
        unless: given the body and the text before the match, whether the match is harmless.
        shortest: the minimum length of a text that can match.
    """

    hint: tuple[str, ...] | re.Pattern[str]
    placeholder: str
    head: str
    body: str
    unless: Callable[[str, str], bool] | None = None
    shortest: int = 0

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Head and body; the body is the group named `body`."""
        return re.compile(f"(?:{self.head})(?P<body>{self.body})", re.MULTILINE)

    def may_apply(self, text: str, lowered: str) -> bool:
        """Whether the rule may match this text; `lowered` is the text in lower case."""
        if len(text) < self.shortest:
            return False
        if not isinstance(self.hint, tuple):
            return self.hint.search(lowered) is not None
        # A plain loop: a generator costs more than most of the searches.
        for word in self.hint:  # noqa: SIM110
            if word in lowered:
                return True
        return False

    def finds(self, text: str) -> Iterator[tuple[int, int, str]]:
        """The matches to redact: start, end and replacement."""
        for match in self.pattern.finditer(text):
            start, end = match.span("body")
            if self.unless is None or not self.unless(match["body"], text[max(0, start - 64) : start]):
                yield start, end, self.placeholder


@dataclass(frozen=True)
class Group:
    """Rules that are tried one after the other, unless a quick test excludes all of them.

    Most text needs no rule: testing a group costs much less than testing each of its rules.
    """

    rules: tuple[Rule, ...]
    first: tuple[str, ...] = ()

    @functools.cached_property
    def hint(self) -> tuple[str, ...]:
        """`first`, or the words of all rules without words that contain another one."""
        if self.first:
            return self.first
        words = {word for rule in self.rules if isinstance(rule.hint, tuple) for word in rule.hint}
        return tuple(sorted(word for word in words if not any(o in word for o in words - {word})))

    @functools.cached_property
    def shortest(self) -> int:
        """The smallest `shortest` of the rules."""
        return min(rule.shortest for rule in self.rules)

    def may_apply(self, text: str, lowered: str) -> bool:
        """Whether one of the rules may match."""
        if len(text) < self.shortest:
            return False
        for word in self.hint:  # noqa: SIM110
            if word in lowered:
                return True
        return False
