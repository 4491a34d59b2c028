r"""Other readings of a text, in which a rule may find what the text itself hides.

A word that a rule looks for begins at a boundary. In `\e[32mhf_…`, in `"…\nhf_…"` of JSON, in `key%3Dhf_…` a letter
stands before it, which is the end of an escape and no letter of a word. A view is the text with such escapes read; it
knows for each of its characters what stands for it in the text, so that what is found in a view is replaced there and
all else keeps its form.
"""

import functools
import html
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from runner.plain import MARK, marked

# (start, end, what stands in its place), in order, without overlap.
Finds = Iterable[tuple[int, int, str]]

_CLEAR = re.compile(
    r"%(?:25){0,4}(?P<percent>[0-9A-Fa-f]{2})"
    r"|&(?:amp;){0,4}(?P<entity>(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});)"
)
_ESCAPES = re.compile(
    rf"(?P<mark>{MARK}"
    # An escape code that somebody escaped, or that lost its first byte.
    r"|(?:\\{1,16}(?:x1[bB]|u001[bB]|u\{1[bB]\}|033|e(?=\[))|\^\[|#033|\u241b|ESC(?=\[))(?:\[[0-?]{0,32}[ -/]?[@-~])?"
    r"|\\{1,16}(?:x9[bB]|u009[bB])[0-?]{0,32}[ -/]?[@-~]"
    r"|\[(?:\d{1,3}(?:;\d{1,3}){0,8})?[mK])"
    r"|\\{1,16}(?:(?P<letter>[nrtfvab\"'/])|x(?P<hex>[0-9A-Fa-f]{2})|u(?P<unit>[0-9A-Fa-f]{4})"
    r"|u\{(?P<point>[0-9A-Fa-f]{1,6})\}|(?P<octal>[0-3][0-7]{2}|0))"
    r"|(?P<slash>\\{2,16})"
    rf"|{_CLEAR.pattern}"
    # As rsyslog, `cat -v` and mail write control characters.
    r"|#(?P<syslog>0[0-3][0-7])|\^(?P<caret>[@-_])|=(?P<quoted>3D)"
)
_LETTERS = {"n": "\n", "r": "\n", "f": "\n", "v": "\n", "t": "\t", "a": MARK, "b": MARK}
_BASES = {
    "hex": 16,
    "unit": 16,
    "point": 16,
    "percent": 16,
    "quoted": 16,
    "octal": 8,
    "syslog": 8,
}
_LAST_POINT = 0x10FFFF
# No letter of a word, whatever it was: half of a character in UTF-8, mostly.
_OTHER = "\ufffd"
# Where colours stand within a word and beside it, as `grep --color` and `ls --color` have them.
_WORD = re.compile(r"[^\s\"'<>(){},;=|]+")
_BETWEEN = re.compile(rf"(?<=[^\W_]){MARK}+(?=[^\W_])|(?<=_){MARK}+(?=[^\W_])")


@dataclass(frozen=True)
class View:
    """One reading.

    Attributes:
        text: what it reads.
        pieces: what stands in the original for each of its characters; None where every one stands for itself.
        behind: what stands in the original behind each of them and reads as nothing.
        head: what stands in the original before the first.
    """

    text: str
    pieces: list[str] | None = None
    behind: list[str] = field(default_factory=list)
    head: str = ""

    @property
    def original(self) -> str:
        """The text of which this is a view, with whatever has been replaced."""
        if self.pieces is None:
            return self.text
        return self.head + "".join(map(str.__add__, self.pieces, self.behind))

    def replaced(self, finds: Finds) -> "View":
        """The view, and the original with it, with these in their places."""
        text: list[str] = []
        pieces: list[str] = []
        behind: list[str] = []
        end = 0
        for start, stop, placeholder in finds:
            text += (self.text[end:start], placeholder)
            if self.pieces is None:
                end = stop
                continue
            # A placeholder is one piece; the rest of its characters stand for nothing.
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
    """What makes each reading of a text, the one that differs least from it first; None where it is no other one.

    Each has to be given the text as the one before left it.

    Args:
        text: as `runner.plain.marked` has it.
    """
    if MARK not in text:
        # Read as it is, with only those escapes read that cannot be anything else.
        yield lambda text: _view(text, _CLEAR, _none)
    if _ESCAPES.search(text):
        for keep in (_none, _first, _last, _ends, _all):
            yield functools.partial(_view, escapes=_ESCAPES, keep=keep)


def read(text: str) -> str:
    """The text with its escapes read, for a short one such as a name."""
    view = _view(marked(text), _ESCAPES, _none)
    return "" if view is None else view.text


def _view(text: str, escapes: re.Pattern[str], keep: Callable[[str], set[int]]) -> View | None:
    if not escapes.search(text):
        return View(text)
    characters, pieces = _taken_apart(text, escapes)
    kept = keep("".join(characters))
    return None if keep is not _none and not kept else _without_marks(characters, pieces, kept)


@functools.lru_cache(maxsize=1)
def _taken_apart(text: str, escapes: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """What each character of a text, or each escape in it, reads as, and itself."""
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


def _none(_text: str) -> set[int]:
    return set()


def _all(text: str) -> set[int]:
    return {place for word in _words(text) for place in word}


def _first(text: str) -> set[int]:
    return {word[0] for word in _words(text) if len(word) > 1}


def _last(text: str) -> set[int]:
    return {word[-1] for word in _words(text) if len(word) > 1}


def _ends(text: str) -> set[int]:
    return {place for word in _words(text) if len(word) > 2 for place in (word[0], word[-1])}  # noqa: PLR2004 - two ends


def _words(text: str) -> Iterator[list[int]]:
    """For each word with marks in it the places of those that stand between letters, and so may or may not part it.

    Where every letter has a mark beside it, as in UTF-16, they part nothing.
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
    return _character(int(value, _BASES[kind]))


def _character(point: int) -> str:
    """The character, where it is one of plain English; a mark or a line's end for what steers."""
    if point in {0, ord(MARK)}:
        return MARK
    if point > _LAST_POINT:
        return _OTHER
    character = marked(chr(point))
    return character if character.isascii() else _OTHER
