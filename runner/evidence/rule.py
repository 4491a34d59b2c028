"""One rule of the redaction, and the pieces of patterns that several rules share."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

HEX = "[0-9A-Fa-f]"
ALONE = r"(?<![0-9A-Za-z])"
END = r"(?![0-9A-Za-z])"
# Between a name and its value, in a shell, YAML, JSON, or JSON inside a string.
IS = r"\\{0,2}[\"']?[ \t]{0,40}+[:=][ \t]{0,40}+(?:\\{0,2}[\"'])?+"


@dataclass(frozen=True)
class Rule:
    """One kind of thing to take out.

    Attributes:
        hint: words in lower case of which one must occur (in any case) for the rule to apply, or a quicker pattern.
        placeholder: what stands in its place.
        head: what comes before it and stays.
        body: what is taken out; it never matches its own placeholder.
        unless: given the body and the text before the match, whether it is harmless after all.
        shortest: no text with fewer characters can match.
    """

    hint: tuple[str, ...] | re.Pattern[str]
    placeholder: str
    head: str
    body: str
    unless: Callable[[str, str], bool] | None = None
    shortest: int = 0

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Head and body; the body is the group of that name."""
        return re.compile(f"(?:{self.head})(?P<body>{self.body})", re.MULTILINE)

    def may_apply(self, text: str, lowered: str) -> bool:
        """Whether the rule is worth trying on this text; `lowered` is the text in lower case."""
        if len(text) < self.shortest:
            return False
        if not isinstance(self.hint, tuple):
            return self.hint.search(text) is not None
        # A plain loop: a generator costs more than most of the searches do.
        for word in self.hint:  # noqa: SIM110
            if word in lowered:
                return True
        return False

    def apply(self, text: str) -> str:
        """The text with the rule's placeholder in every place."""
        return self.pattern.sub(self._replaced, text)

    def _replaced(self, match: re.Match[str]) -> str:
        start = match.start("body")
        if self.unless is not None and self.unless(match["body"], match.string[max(0, start - 64) : start]):
            return match[0]
        return match.string[match.start() : start] + self.placeholder
