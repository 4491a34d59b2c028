r"""Removes terminal control sequences and invisible characters from text. Standard library only.

Colours, cursor moves, window titles, links, control characters, overwritten text, the zero bytes of UTF-16, zero-width
characters and bidirectional controls carry no information and can hide what a text says. Line ends of every kind become
`\n`; tabs stay.
"""

import json
import re

# Marks the place of removed characters, so that the text on both sides stays separate. It is itself a control
# character, so a marked text contains no other one.
MARK = "\x01"
# Zero-width characters, soft hyphens, variation selectors, tags, and bidirectional controls.
_INVISIBLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Single control characters, without line ends and backspace.
_SINGLE = rf"\x00-\x07\x0e-\x1f\x7f-\x84\x86-\x9f{_INVISIBLE}"
_ANY = re.compile(rf"[{_SINGLE}\x08\x0b-\x0d\x85\u2028\u2029]")
# ECMA-48. A truncated sequence does not include a letter that may begin a word: `\x1b[hf_` keeps its h.
ESCAPE_CODES = re.compile(
    r"(?:\x1b\[|\x9b)(?:[0-?]+[ -/]*[@-~]?|[@B-HJ-MSTXZmsu]|A(?!KIA|SIA|Iza)|P(?!ASS))?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b(?: [FGLMN]|[#%()*+.-][0-~]|[78=>DEHMNOZ\\c])?"
)
_STEERING = re.compile(rf"(?:{ESCAPE_CODES.pattern}|[{_SINGLE}])+")
# A run of CR is looked at from its first one only, else a million of them without LF would take hours.
_LINE_ENDS = re.compile(r"(?<!\r)\r+\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Every second byte of plain English in UTF-16 is zero.
_UTF16 = re.compile(r"(?:[\x01-\x7f]\x00){4,}|(?:\x00[\x01-\x7f]){4,}")


def marked(text: str) -> str:
    """The text with each run of removed characters replaced by one `MARK`."""
    if not _ANY.search(text):
        return text
    if "\x00" in text:
        text = _UTF16.sub(lambda found: found[0].replace("\x00", ""), text)
        # The remaining NULs separate the entries of an environment, or the words of a command line.
        text = text.replace("\x00", "\n")
    text = _STEERING.sub(MARK, _LINE_ENDS.sub("\n", text))
    if "\x08" in text:
        text = "\n".join(_overwritten(line) if "\x08" in line else line for line in text.split("\n"))
    return text


def plain(text: str) -> str:
    """The text with all such characters removed."""
    return marked(text).replace(MARK, "")


def one_line(text: str) -> str:
    """The same on one line, for output in which every line is one statement."""
    return " ".join(plain(text).split())


def visible_line(text: str) -> str:
    """The text with every unprintable character escaped: line breaks, NUL, ESC, bidi marks."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def json_text(document: object, *, sort_keys: bool = False) -> str:
    """Indented JSON, with escapes for every character that `plain` would remove."""
    text = json.dumps(document, ensure_ascii=False, indent=2, sort_keys=sort_keys)
    return _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)


_UNPRINTABLE = re.compile(rf"[{_SINGLE}\x85\u2028\u2029\ud800-\udfff]")


def _overwritten(line: str) -> str:
    """What a terminal shows for a line with backspaces, which move the cursor and erase nothing."""
    cells: list[str] = []
    place, mark = 0, ""
    for character in line:
        if character == "\x08":
            place = max(0, place - 1)
            continue
        if character == MARK:
            mark = MARK
            continue
        # The same letter twice means bold, a letter over `_` means underlined, anything else replaces the letter.
        before = cells[place][-1:] if place < len(cells) else character
        if before not in {character, "_"}:
            mark = MARK
        cells[place : place + 1] = [mark + character]
        place, mark = place + 1, ""
    return "".join(cells) + mark
