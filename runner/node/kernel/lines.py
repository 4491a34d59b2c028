"""Lines of a kernel log in the forms in which people keep one, as texts with their times. Pure.

Forms: `dmesg` (plain, -T, -x, -r, --time-format iso), records of /dev/kmsg, `journalctl -k` (short, its variants,
short-iso, cat), syslog files (the traditional form, ISO times, RFC 5424), and texts without a prefix.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from runner.base.plain import one_line, plain

Clock = Literal["uptime", "wall"]
# The kernel's own limit is about 1 KiB a line; a line of JSON in a paste may be longer.
_MOST_CHARACTERS = 4_000
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = rf"(?:{'|'.join(_MONTHS)})"
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ISO = rf"\d{{4}}-\d\d-\d\d[T ]{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?"
_UPTIME = re.compile(r"\[ {0,12}(\d{1,12}\.\d{1,9})\](?:\[ {0,8}[TC]\d{1,8}\])? ?")
_CTIME = re.compile(rf"\[{_DAY} ({_MONTH}) {{1,2}}(\d{{1,2}}) ({_CLOCK}) (\d{{4}})\] ?")
_SHORT = re.compile(rf"({_MONTH}) {{1,2}}(\d{{1,2}}) ({_CLOCK}) ")
_FULL = re.compile(rf"(?:{_DAY} )?({_ISO})(?: UTC)? ")
_RFC5424 = re.compile(
    rf"<(\d{{1,3}})>1 ({_ISO}) \S{{1,255}} (\S{{1,64}}) \S{{1,128}} \S{{1,32}} (?:-|\[[^\]]{{0,500}}\]) ?"
)
_UNIX = re.compile(r"(\d{10}\.\d{1,9}) ")
_PRIORITY = re.compile(r"<(\d{1,6})>")
_KMSG = re.compile(r"(\d{1,6}),(\d{1,20}),(\d{1,20}),[^;]{1,80};")
# `dmesg -x` writes the facility and the priority before the time.
_DECODED = re.compile(r"([a-z0-9]{2,9}) {0,4}:[a-z]{3,7} {0,4}: ")
# `HOST kernel: `, `HOST program[12]: `, `kernel: `; a host may be missing.
_TAG = re.compile(r"(?:(\S{1,255}) )?([A-Za-z][\w./@-]{0,63})(\[\d{1,10}\])?: ")
_PRINTED = re.compile(r"\[\.{3}\] ?|kernel: ")
_KERNEL, _DRIVER = "kernel", "NVRM"
_WHOLE_YEAR_S = 366 * 86400.0


@dataclass(frozen=True)
class LogLine:
    """One line of a kernel log.

    Attributes:
        text: the kernel's text, without time, host and tag; no control characters.
        kernel: whether the line says that the kernel wrote it; None if it does not say.
        clock: of `at_s`: seconds after the start of the node, or a date; None for a line without a time.
        at_s: seconds on that clock. A date without a year has a year of its own: compare such times with each other.
    """

    text: str
    kernel: bool | None = None
    clock: Clock | None = None
    at_s: float | None = None


def log_lines(text: str) -> Iterator[LogLine]:
    """The lines of a captured log, in their order; empty ones are left out."""
    waiting: LogLine | None = None
    years = _Years()
    for raw in plain(text).split("\n"):
        line = raw[:_MOST_CHARACTERS]
        if not line.strip():
            continue
        if waiting is not None and _continues(line, waiting):
            waiting = replace(waiting, text=f"{waiting.text} {one_line(line)}"[:_MOST_CHARACTERS])
            continue
        if waiting is not None:
            yield waiting
        waiting = _line(line, years)
    if waiting is not None:
        yield waiting


def newest_of(lines: Iterable[LogLine]) -> dict[Clock, float]:
    """The newest time on each clock of a log."""
    found: dict[Clock, float] = {}
    for one in lines:
        if one.clock is not None and one.at_s is not None:
            found[one.clock] = max(one.at_s, found.get(one.clock, one.at_s))
    return found


def _continues(line: str, before: LogLine) -> bool:
    """A long line that an editor or a chat wrapped; lines of a kmsg record that name its device are no text."""
    return (
        before.text.startswith("NVRM: ")
        and line[0] in " \t"
        and not line.startswith((" SUBSYSTEM=", " DEVICE="))
        and _UPTIME.match(line.lstrip()) is None
    )


class _Years:
    """Gives dates without a year one that grows when a log passes New Year."""

    def __init__(self) -> None:
        # A leap year, so that every day exists.
        self._year, self._last = 2000, 0.0

    def at(self, month: str, day: str, clock: str) -> float | None:
        at = _wall(self._year, month, day, clock)
        if at is not None and at < self._last - _WHOLE_YEAR_S / 2:
            self._year += 1
            at = _wall(self._year, month, day, clock) or at
        self._last = at or self._last
        return at


def _line(raw: str, years: _Years) -> LogLine:
    if found := _KMSG.match(raw):
        return LogLine(one_line(raw[found.end() :]), int(found[1]) >> 3 == 0, "uptime", int(found[3]) / 1e6)
    if found := _RFC5424.match(raw):
        kernel = int(found[1]) >> 3 == 0 or found[3] == "kernel"
        return _with_uptime(raw[found.end() :], kernel, "wall", _iso(found[2]))
    rest, kernel = raw.lstrip(), None
    if found := _PRIORITY.match(rest):
        rest, kernel = rest[found.end() :], int(found[1]) >> 3 == 0
    elif found := _DECODED.match(rest):
        rest, kernel = rest[found.end() :], found[1] == "kern"
    clock, at, rest = _time(rest, years)
    if clock is not None:
        # `dmesg` writes its times in brackets, and no host.
        tagged, rest = _tag(rest, dated=clock == "wall" and not raw.lstrip().startswith("["))
        kernel = tagged if kernel is None else kernel
    while found := _PRINTED.match(rest):
        kernel = True if kernel is None and found[0].startswith("kernel") else kernel
        rest = rest[found.end() :]
    return _with_uptime(rest, kernel, clock, at)


def _with_uptime(rest: str, kernel: bool | None, clock: Clock | None, at: float | None) -> LogLine:
    """The kernel's own time may follow that of the log."""
    if found := _UPTIME.match(rest):
        rest = rest[found.end() :]
        if clock is None:
            clock, at = "uptime", float(found[1])
    return LogLine(one_line(rest), kernel, clock if at is not None else None, at)


def _time(rest: str, years: _Years) -> tuple[Clock | None, float | None, str]:
    if found := _UPTIME.match(rest):
        return "uptime", float(found[1]), rest[found.end() :]
    if found := _CTIME.match(rest):
        return "wall", _wall(int(found[4]), found[1], found[2], found[3]), rest[found.end() :]
    if found := _SHORT.match(rest):
        return "wall", years.at(found[1], found[2], found[3]), rest[found.end() :]
    if found := _FULL.match(rest):
        return "wall", _iso(found[1]), rest[found.end() :]
    if found := _UNIX.match(rest):
        return "wall", float(found[1]), rest[found.end() :]
    return None, None, rest


def _tag(rest: str, *, dated: bool) -> tuple[bool | None, str]:
    """Whether the kernel is named as the writer, and the text after its name.

    `dmesg` writes no host and no name, so `mce: …` after its time is the text. A log with dates of a syslog or of the
    journal writes both.
    """
    found = _TAG.match(rest)
    if found is None:
        return None, rest
    host, name, pid = found.groups()
    if name == _KERNEL and pid is None:
        return True, rest[found.end() :]
    if not dated or host is None or not _is_host(host):
        return None, rest
    if name == _DRIVER:
        # The host, and no name of the kernel.
        return None, rest[found.start(2) :]
    return False, rest[found.end() :]


def _is_host(word: str) -> bool:
    """A kernel text has other first words before a name with a colon: `mlx5_core 0000:5c:00.0: …`."""
    return (
        re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", word) is not None
        and word not in _FIRST_WORDS
    )


_FIRST_WORDS = frozenset({"pcieport", "mlx5_core", "EDAC", "Memory", "Hardware", "INFO", "audit"})


def _wall(year: int, month: str, day: str, clock: str) -> float | None:
    try:
        hour, minute, second = clock.replace(",", ".").split(":")
        at = datetime(year, _MONTHS.index(month) + 1, int(day), int(hour), int(minute), tzinfo=UTC)
    except ValueError:
        return None
    return at.timestamp() + float(second)


def _iso(text: str) -> float | None:
    """Seconds of a date; one without a zone counts as UTC. The digits of a second beyond microseconds are cut."""
    cut = re.sub(
        r"[.,](\d{1,6})\d{0,3}", lambda found: "." + found[1].ljust(6, "0"), text.replace("Z", "+00:00")
    )
    try:
        at = datetime.fromisoformat(cut)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
