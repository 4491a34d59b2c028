"""Finds calls of this project's programs in a shell block, without running it. Pure."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_PROBE = "runner.probes."
_ENDS = frozenset({"|", "||", "&&", "&", ";", ";;", "(", ")", "|&", "{", "}"})
# A redirection and its target. A digit before it, as in `2>`, belongs to it only after white space.
_REDIRECTION = re.compile(r"(?:(?<=\s)\d+)?(?:&>>?|>>?\|?|<<?<?)\s*(?:&\d+|&-|[^\s|;&()]+)")


@dataclass(frozen=True)
class ProgramCall:
    """One `python -m runner.…` call of a block: the first line of its command (from 1), its module, its arguments."""

    line: int
    module: str
    words: tuple[str, ...]

    @property
    def probe(self) -> str | None:
        """The probe that it starts; None if its module is not a probe."""
        return self.module.removeprefix(_PROBE) if self.module.startswith(_PROBE) else None


def calls_of(block: str) -> Iterator[ProgramCall]:
    """Every call of this project's programs, in order."""
    for line, words in _simple_commands(block):
        call = _call(line, words)
        if call is not None:
            yield call


def _simple_commands(block: str) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of every simple command. A line that shlex cannot split is left to `bash -n`."""
    lines = block.split("\n")
    number = 0
    while number < len(lines):
        start, text = number, lines[number]
        while text.endswith("\\") and number + 1 < len(lines):
            number += 1
            text = f"{text[:-1]} {lines[number]}"
        number += 1
        # A command substitution, quoted or not, is a separate command.
        text = re.sub(r"\"?\$\((?!\()|`", " ( ", _REDIRECTION.sub(" ", text))
        for words in _split(text):
            yield start + 1, words


def _split(text: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;()<>")
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word in _ENDS:
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:
        # An open quote: the rest of a string that spans lines. The words read so far are kept.
        pass
    yield words


def _call(line: int, words: Sequence[str]) -> ProgramCall | None:
    for place in range(len(words) - 2):
        if re.fullmatch(r"(.*/)?python3?(\.\d+)?", words[place]) and words[place + 1] == "-m":
            module = words[place + 2]
            return (
                ProgramCall(line, module, tuple(words[place + 3 :]))
                if module.split(".")[0] == "runner"
                else None
            )
    return None
