"""Reads what torch.compile logs of recompiles, limits and graph breaks (TORCH_LOGS=recompiles,graph_breaks). Pure.

A record has several lines, and those of several ranks may be mixed. Each line of a record begins with the same time,
process and compile, so its lines are put together by that. In a log without these beginnings they follow each other.
Wording: torch/_dynamo/guards.py, convert_frame.py and symbolic_convert.py of PyTorch 2.9.1 and 2.13.0.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

LogKind = Literal["recompile", "limit", "graph break"]

# As `[rank0]:V1128 08:29:44.102000 14421 torch/_dynamo/guards.py:5396] [0/1] [__recompiles] `.
_HEAD = re.compile(
    r"(?P<rank>\[rank\d{1,7}\]:)?[A-Z]\d{4} [\d:]{8}\.\d{1,6} (?P<pid>\d{1,9}) [^\s\]]{1,300}\]"
    r"(?: \[[^\]\s]{1,60}\])* ?"
)
_RECOMPILE = re.compile(
    r"^\s*Recompiling function (?P<frame>\S{1,300}) in (?P<place>\S.{0,1000}:\d{1,9})\s*$"
)
_LIMIT = re.compile(r"^\s*torch\._dynamo hit config\.\w{1,60}_limit \(\d{1,9}\)")
_FUNCTION = re.compile(r"^\s*function: '(?P<frame>[^']{1,300})' \((?P<place>.{1,1000}:\d{1,9})\)\s*$")
_BREAK = re.compile(r"^\s*Graph break in user code at (?P<place>\S.{0,1000}:\d{1,9})\s*$")
_REASON = re.compile(r"^\s*(?:- |last reason: )(?:\d{1,9}/\d{1,9}(?:_\d{1,9})?: )(?P<reason>\S.*)$")
_BREAK_REASON = re.compile(r"^\s*Graph Break Reason: (?P<reason>\S.*)$")
# Torch adds the line of source to a guard, and advice to that.
_ADDED = re.compile(r"\s+# .*$|\s*\(HINT: .*$")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_LONGEST_LINE, _LONGEST_REASON = 2000, 300


@dataclass(frozen=True)
class LoggedCompile:
    """One record of the log.

    Attributes:
        kind: what it reports.
        frame: the function; empty for a graph break.
        place: `file:line`, of the function or of the line that broke the graph; empty if the record is cut off.
        reason: the guard that failed, or what broke the graph; empty if the record is cut off.
        process: the rank and the process id in the log; empty without them.
    """

    kind: LogKind
    frame: str
    place: str
    reason: str
    process: str

    @property
    def cause(self) -> tuple[str, str, str, str]:
        """The same for records of one cause: numbers in the reason do not count."""
        return self.kind, self.frame, self.place, _NUMBER.sub("N", self.reason)


@dataclass(frozen=True)
class LoggedCause:
    """Records of one cause.

    Attributes:
        first: the first of them.
        count: how many there are.
        most: the most in one process.
        processes: how many processes have one.
    """

    first: LoggedCompile
    count: int
    most: int
    processes: int


def logged_compiles(text: str) -> Sequence[LoggedCompile]:
    """Every record of a log, in the order of their first lines.

    A recompile that is there twice, as where a log was written by two handlers, counts once: torch numbers them.
    """
    found: list[_Begun] = []
    begun: dict[str, _Begun] = {}
    for head, process, message in _messages(text):
        if new := _beginning(message, process):
            known = begun.get(head)
            if head and known and known.is_recompile and new.is_recompile:
                continue
            begun[head] = new
            found.append(new)
        elif one := begun.get(head):
            one.continue_with(message)
    return [one.record() for one in found]


def logged_causes(records: Sequence[LoggedCompile]) -> Sequence[LoggedCause]:
    """The records by cause: limits first, then the cause with the most."""
    of_cause: dict[tuple[str, ...], list[LoggedCompile]] = {}
    for one in records:
        of_cause.setdefault(one.cause, []).append(one)
    causes = []
    for alike in of_cause.values():
        processes = Counter(one.process for one in alike)
        causes.append(LoggedCause(alike[0], len(alike), max(processes.values()), len(processes)))
    return sorted(causes, key=lambda one: (one.first.kind != "limit", -one.most, -one.count))


class _Begun:
    """A record whose further lines are still to come."""

    def __init__(self, kind: LogKind, process: str, frame: str = "", place: str = "") -> None:
        self._kind: LogKind = kind
        self._process, self._frame, self._place, self._reason = process, frame, place, ""

    @property
    def is_recompile(self) -> bool:
        return self._kind == "recompile"

    def continue_with(self, message: str) -> None:
        if self._kind == "limit" and not self._place and (of := _FUNCTION.match(message)):
            self._frame, self._place = of["frame"], of["place"]
        pattern = _BREAK_REASON if self._kind == "graph break" else _REASON
        # A recompile names the guard of each graph that it tried, the newest first.
        if not self._reason and (said := pattern.match(message)):
            self._reason = _ADDED.sub("", said["reason"][:_LONGEST_LINE]).strip()[:_LONGEST_REASON]

    def record(self) -> LoggedCompile:
        return LoggedCompile(self._kind, self._frame, self._place, self._reason, self._process)


def _beginning(message: str, process: str) -> _Begun | None:
    if again := _RECOMPILE.match(message):
        return _Begun("recompile", process, again["frame"], again["place"])
    if _LIMIT.match(message):
        return _Begun("limit", process)
    if broken := _BREAK.match(message):
        return _Begun("graph break", process, place=broken["place"])
    return None


def _messages(text: str) -> Iterator[tuple[str, str, str]]:
    """What begins each line, the process in it, and what follows."""
    for line in text.split("\n"):
        if head := _HEAD.search(line):
            yield head[0].rstrip(), f"{head['rank'] or ''}{head['pid']}", line[head.end() :]
        else:
            yield "", "", line
