r"""Decoded views of a text, in which a redaction rule can find what escapes hide.

A rule matches a word only at a word boundary. In `\e[32mhf_…`, in JSON `"…\nhf_…"` and in `key%3Dhf_…` the character
before the word is a letter, but it is the end of an escape. A view is the text with such escapes decoded. It maps each
of its characters to the original text, so that a find in a view is replaced in the original and everything else is
unchanged.
"""

import functools
import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from runner.base.plain import MARK, marked
from runner.record.redaction.rule import Finds

_CLEAR = re.compile(
    r"%(?:25){0,4}(?P<percent>[0-9A-Fa-f]{2})"
    r"|&(?:amp;){0,4}(?P<entity>(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});)"
)
_ESCAPES = re.compile(
    rf"(?P<mark>{MARK}"
    # An escape code that was itself escaped, or that lost its first byte.
    r"|(?:\\{1,16}(?:x1[bB]|u001[bB]|u\{1[bB]\}|033|e(?=\[))|\^\[|#033|\u241b|ESC(?=\[))(?:\[[0-?]{0,32}[ -/]?[@-~])?"
    r"|\\{1,16}(?:x9[bB]|u009[bB])[0-?]{0,32}[ -/]?[@-~]"
    r"|\[(?:\d{1,3}(?:;\d{1,3}){0,8})?[mK])"
    r"|\\{1,16}(?:(?P<letter>[nrtfvab\"'/])|x(?P<hex>[0-9A-Fa-f]{2})|u(?P<unit>[0-9A-Fa-f]{4})"
    r"|u\{(?P<point>[0-9A-Fa-f]{1,6})\}|(?P<octal>[0-3][0-7]{2}|0))"
    r"|(?P<slash>\\{2,16})"
    rf"|{_CLEAR.pattern}"
    # The notations of rsyslog, `cat -v` and mail for control characters.
    r"|#(?P<syslog>0[0-3][0-7])|\^(?P<caret>[@-_])|=(?P<quoted>3D)"
)
_LETTERS = {"n": "\n", "r": "\n", "f": "\n", "v": "\n", "t": "\t", "a": MARK, "b": MARK}
_OCTAL = frozenset({"octal", "syslog"})
_LAST_POINT = 0x10FFFF
# Any character that is not part of a word, mostly a part of a UTF-8 sequence.
_OTHER = "\ufffd"
# Colours within and next to a word, as in the output of `grep --color` and `ls --color`.
_WORD = re.compile(r"[^\s\"'<>(){},;=|]+")
_BETWEEN = re.compile(rf"(?<=[^\W_]){MARK}+(?=[^\W_])|(?<=_){MARK}+(?=[^\W_])")
# Given the places of the marks in a word: those that a view keeps.
_Keep = Callable[[list[int]], list[int]]
_KEEPS: tuple[_Keep, ...] = (
    lambda marks: marks[:1] if len(marks) > 1 else [],
    lambda marks: marks[-1:] if len(marks) > 1 else [],
    lambda marks: [marks[0], marks[-1]] if len(marks) > 2 else [],  # noqa: PLR2004 - two ends
    lambda marks: marks,
)


@dataclass(frozen=True)
class View:
    """One decoded view.

    Attributes:
        text: the decoded text.
        pieces: the original text of each of its characters; None if all are unchanged.
        behind: the original text after each of them that decodes to nothing.
        head: the original text before the first character.
    """

    text: str
    pieces: list[str] | None = None
    behind: list[str] = field(default_factory=list)
    head: str = ""

    @property
    def original(self) -> str:
        """The original text, with all replacements."""
        if self.pieces is None:
            return self.text
        return self.head + "".join(map(str.__add__, self.pieces, self.behind))

    def replaced(self, finds: Finds) -> "View":
        """The view with these replacements, which also apply to the original."""
        text: list[str] = []
        pieces: list[str] = []
        behind: list[str] = []
        end = 0
        for start, stop, placeholder in finds:
            text += (self.text[end:start], placeholder)
            if self.pieces is None:
                end = stop
                continue
            # The placeholder's first character holds the whole piece; the others are empty.
            rest = [""] * (len(placeholder) - 1)
            pieces += [*self.pieces[end:start], placeholder, *rest]
            behind += [*self.behind[end:start], *rest, self.behind[stop - 1]]
            end = stop
        if not text:
            return self
        text.append(self.text[end:])
        if self.pieces is None:
            return View("".join(text))
        return View("".join(text), pieces + self.pieces[end:], behind + self.behind[end:], self.head)


def views(text: str) -> Iterator[Callable[[str], View | None]]:
    """Functions that create each view of a text, the least different one first; they return None for an equal view.

    Each must be called with the text as the one before left it.

    Args:
        text: the result of `runner.base.plain.marked`.
    """
    if MARK not in text:
        # First only the escapes that are unambiguous.
        yield functools.partial(_view, escapes=_CLEAR)
    if _ESCAPES.search(text):
        for keep in (None, *_KEEPS):
            yield functools.partial(_view, escapes=_ESCAPES, keep=keep)


def read(text: str) -> str:
    """The text with its escapes decoded, for a short text such as a name."""
    view = _view(marked(text), _ESCAPES)
    return "" if view is None else view.text


def _view(text: str, escapes: re.Pattern[str], keep: _Keep | None = None) -> View | None:
    """The view in which of all marks only those stay that `keep` says; None if it says none."""
    if not escapes.search(text):
        return View(text)
    characters, pieces = _taken_apart(text, escapes)
    kept = {place for word in _words("".join(characters)) for place in keep(word)} if keep else set()
    return None if keep and not kept else _without_marks(characters, pieces, kept)


@functools.lru_cache(maxsize=1)
def _taken_apart(text: str, escapes: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The decoded form of each character or escape of a text, and its original form."""
    characters: list[str] = []
    pieces: list[str] = []
    end = 0
    for found in escapes.finditer(text):
        characters += text[end : found.start()]
        pieces += text[end : found.start()]
        meaning = _meaning(found)
        characters.append(_OTHER if meaning == MARK and escapes is _CLEAR else meaning)
        pieces.append(found[0])
        end = found.end()
    return characters + list(text[end:]), pieces + list(text[end:])


def _without_marks(characters: list[str], pieces: list[str], kept: set[int]) -> View:
    shown: list[str] = []
    stand: list[str] = []
    behind: list[str] = []
    head = ""
    for place, (character, piece) in enumerate(zip(characters, pieces, strict=True)):
        if character != MARK or place in kept:
            shown.append(character)
            stand.append(piece)
            behind.append("")
        elif behind:
            behind[-1] += piece
        else:
            head += piece
    return View("".join(shown), stand, behind, head)


def _words(text: str) -> Iterator[list[int]]:
    """For each word with marks, the places of marks between letters, which may or may not separate words.

    If every letter has a mark next to it, as in UTF-16, the marks separate nothing.
    """
    for word in _WORD.finditer(text):
        if MARK in word[0] and len(word[0].replace(MARK, "")) > 2 * word[0].count(MARK):
            places = [word.start() + found.start() for found in _BETWEEN.finditer(word[0])]
            if places:
                yield places


def _meaning(found: re.Match[str]) -> str:
    kind = found.lastgroup or ""
    value = found[kind]
    if kind == "mark":
        return MARK
    if kind == "letter":
        return _LETTERS.get(value, value)
    if kind == "slash":
        return "\\"
    if kind == "caret":
        return _character(ord(value) - 64)
    if kind == "entity":
        read_as = html.unescape(f"&{value}")
        return _character(ord(read_as)) if len(read_as) == 1 else _OTHER
    return _character(int(value, 8 if kind in _OCTAL else 16))


def _character(point: int) -> str:
    """The character itself if it is ASCII text; a mark or a line end for a control character."""
    if point in {0, ord(MARK)}:
        return MARK
    if point > _LAST_POINT:
        return _OTHER
    character = marked(chr(point))
    return character if character.isascii() else _OTHER
