"""Text that came through a terminal, a log or a ticket, without what these add to it. Pure."""

import re

from runner.base.plain import plain

_TIME = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_DAY = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?[A-Z][a-z]{2} {1,2}\d{1,2}"
_STAMP = re.compile(
    rf"^\[?(?:\d{{4}}-\d\d-\d\d[T ]{_TIME}(?:Z|[+-]\d\d:?\d\d)?|{_DAY} {_TIME}(?: \d{{4}}\b)?|{_TIME})\]?:? ?",
    re.MULTILINE,
)
# No-break spaces, as web pages and chats put them in place of spaces.
_SPACE = re.compile(r"[\u00a0\u2007\u202f]")


def pasted(text: str) -> str:
    r"""The text without colours, control characters and the time before each line; lines end with `\n`."""
    return _STAMP.sub("", _SPACE.sub(" ", plain(text)))
