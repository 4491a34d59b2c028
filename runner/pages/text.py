"""Text on pages: captured text stays text; times are written in words."""

import re
from datetime import UTC, datetime

from markupsafe import Markup

from runner.base.words import counted

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-9;:?<=>]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
)
# Control characters except line end and tab. STX and ETX among them are Python-Markdown's own placeholders.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# Characters of a text within a line, and of a printed text from either end, that a page shows: a record has all.
LONGEST_CELL = 4_000
LONGEST_BRIEF = 200
SHOWN_OF_OUTPUT = 6_000

# What HTML, Markdown or one of its extensions looks for. One pass over all: a reference must not be referred to.
_ACTIVE = re.compile(r"[\t\n&<>\"'`~{}\[\]*_#|!:\\$+=^@-]")


def captured_text(text: str) -> str:
    """Captured output without escape sequences; other control characters show as their pictures (`␀`)."""
    if text.isprintable():
        # Most texts: neither an escape sequence nor any other control character.
        return text
    text = _ESCAPES.sub("", text).replace("\r\n", "\n")
    return _CONTROLS.sub(lambda match: _picture(match[0]), text)


def _picture(character: str) -> str:
    code = ord(character)
    if code < 0x20:  # noqa: PLR2004 - the first printable ASCII character
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004


def inert(text: str) -> Markup:
    """Text from outside, for a raw HTML block in a Markdown page: shown as it is and never interpreted.

    Line ends become character references, so that the block is one line and no Markdown syntax finds a line to
    begin on; so do tabs, which Markdown would widen as if all were one line, and the characters that Markdown and
    its extensions look for within a line.
    """
    return Markup(_ACTIVE.sub(lambda match: f"&#{ord(match[0])};", captured_text(text)))  # noqa: S704


def printed(text: str) -> Markup:
    """What a program printed, as `inert`: the first and the last part of what is long."""
    if len(text) > 2 * SHOWN_OF_OUTPUT:
        head, tail = text[:SHOWN_OF_OUTPUT], text[-SHOWN_OF_OUTPUT:]
        left_out = len(text) - len(head) - len(tail)
        text = f"{head}\n[{left_out} characters left out here, the record has them]\n{tail}"
    return inert(text)


def cell(text: str) -> Markup:
    """A short text for one line: line ends become spaces."""
    return inert(_short(text))


def brief(text: str) -> Markup:
    """The beginning of a text for one line, where there may be hundreds of its kind."""
    return inert(_short(text, LONGEST_BRIEF))


def escaped(text: str) -> str:
    """A short text for one line of plain Markdown, in which nothing is read as Markdown or HTML.

    A backslash stands before what every dialect lets it escape; the others are character references.
    """
    shown = re.sub(r"([\\`*_{}\[\]>#|])", r"\\\1", captured_text(_short(text)).replace("&", "&amp;"))
    return re.sub(r"[<~$]", lambda match: f"&#{ord(match[0])};", shown)


def _short(text: str, most: int = LONGEST_CELL) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]} …"


def day(moment: datetime) -> str:
    """`2026-11-23 08:15 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def age(moment: datetime, now: datetime) -> str:
    """How long ago, in the largest unit that fits: `3 days ago`."""
    seconds = (now - moment).total_seconds()
    for name, length in (
        ("year", 31_557_600),
        ("month", 2_629_800),
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
    ):
        if seconds >= length:
            return f"{counted(int(seconds // length), name)} ago"
    return "just now"
