"""Reads the status of NCCL's RAS as text, as NCCL 2.24 and later write it (`src/ras/client_support.cc` of its sources).

Its ranks are those of a communicator, not of the job. Only a communicator that spans the job numbers them as the job
does, so ranks are taken from such communicators alone; the others are in the findings, with process and node.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from runner.base.plain import plain
from runner.hang.model import RasReport
from runner.hang.ras_counts import LaunchCounts, RasError, as_findings, ranks_behind

_NUMBER = r"(\d{1,15})"
_VERSION = re.compile(r"^NCCL version (\S{1,100}) compiled with CUDA", re.MULTILINE)
# The last line of numbers of the summary; its last number counts the GPUs of the job.
_TOTALS = re.compile(r"^\(total\).*\n(?: +\d{1,15})* +" + _NUMBER + " *$", re.MULTILINE)
_TITLE = re.compile(r"^(\S.*)\n={4,}$", re.MULTILINE)
_TITLES = ("Job summary", "Communicators...", "Errors", "Warnings")
_ROW = re.compile(
    rf" *{_NUMBER} +{_NUMBER} +\d+ +\d+(?:-\d+)? +{_NUMBER} +\d+ +([A-Z]+) +([A-Z]+(?:,[A-Z]+)*) *"
)
_COLUMNS = ("Group ", "    # ")
_NO_DATA = "No communicator data collected!"
_FINE, _ABORTED = "OK", "ABORT"
_OF_COMMUNICATOR = re.compile(rf"#{_NUMBER}-\d+ \([0-9a-f]+\) ([A-Z]+)")
_TOPIC = "Communicator ranks have different "
_STATUS, _COUNTS = f"{_TOPIC}status", re.compile(rf"{_TOPIC}\w+ operation counts")
_SEVERAL = re.compile(
    rf"{_NUMBER} ranks have (?:launched up to operation {_NUMBER}|not launched any operations)$"
)
_SINGLE = re.compile(
    rf"Rank {_NUMBER} has (?:launched up to operation {_NUMBER}|not launched any operations) "
)
_RANK = re.compile(rf"Rank {_NUMBER} -- ")
# NCCL 2.24 lists them without their processes.
_LISTED = re.compile(r"The (?:missing|unknown) ranks?: (\d{1,15}(?:,\d{1,15})*)$")
_NOT_MEMBER = re.compile(rf"Rank {_NUMBER} has status (?:NOCOMM|UNKNOWN)\b")
_NOT_MEMBERS = re.compile(r"\d+ ranks have status (?:NOCOMM|UNKNOWN)$")
# Larger than any communicator: a rank's number is in a text that may have been damaged.
_MOST_RANKS = 1_000_000


@dataclass(frozen=True)
class _Row:
    """Communicators that are alike."""

    group: int
    communicators: int
    ranks: int
    status: str
    errors: tuple[str, ...]


@dataclass(frozen=True)
class _Block:
    """One error or warning: `head`, and its details, line by line."""

    head: str
    details: list[str] = field(default_factory=list)

    @property
    def group(self) -> int | None:
        found = _OF_COMMUNICATOR.fullmatch(self.head)
        return int(found[1]) if found else None

    @property
    def kind(self) -> str:
        return self.head.rpartition(" ")[2]

    def topics(self) -> list[list[str]]:
        """Its details, those about each difference between the ranks together."""
        found: list[list[str]] = [[]]
        for line in self.details:
            if line.startswith(_TOPIC) and found[-1]:
                found.append([])
            found[-1].append(line)
        return found


def parse_ras_text(text: str) -> RasReport:
    """The report in the answer to `STATUS` or `VERBOSE STATUS`.

    The text has no mark of its end. A part is refused wherever its form tells; the warnings, which NCCL sends in one
    piece, could be cut between two of them unnoticed.

    Raises:
        RasError: the text is of another form, or ends before its end.
    """
    text = plain(text)
    version = _VERSION.search(text)
    if version is None:
        raise RasError(f"NCCL's RAS answers in an unknown form ({text[:80]!r}); read it with `ncclras -v`")
    summary, table, errors, warnings = _bodies(text)
    rows = list(_rows(table))
    blocks = [*_blocks(errors), *_blocks(warnings)]
    _demand_all(rows, blocks)
    totals = _TOTALS.search(summary)
    sizes = {row.group: row.ranks for row in rows}
    world = int(totals[1]) if totals and int(totals[1]) in sizes.values() else None
    spanning = [block for block in blocks if world is not None and sizes.get(_known(block.group)) == world]
    findings = [*_of_table(rows), *_of_blocks(blocks)]
    return RasReport(
        version=version[1],
        healthy=not findings,
        findings=as_findings(findings),
        silent_ranks=_silent(blocks, spanning),
        behind_ranks=ranks_behind(
            [one for block in spanning for one in _launches(block, spanning, world or 0)]
        ),
        world=world,
    )


def _known(group: int | None) -> int:
    return -1 if group is None else group


def _bodies(text: str) -> tuple[str, str, str, str]:
    """The four sections, in their order."""
    parts = _TITLE.split(text)
    titles = parts[1::2]
    for expected, title in zip(_TITLES, titles, strict=False):
        if not title.startswith(expected):
            raise RasError(
                f"NCCL's RAS answers in an unknown form (section {title[:80]!r}); read it with `ncclras -v`"
            )
    if len(titles) > len(_TITLES):
        raise RasError(
            f"NCCL's RAS answers with an unknown section ({titles[len(_TITLES)][:80]!r}); read it with `ncclras -v`"
        )
    if len(titles) < len(_TITLES) or not text.endswith("\n"):
        raise _early()
    summary, table, errors, warnings = parts[2::2]
    return summary, table, errors, warnings


def _early() -> RasError:
    return RasError("the answer of NCCL's RAS ends early: its process may have ended meanwhile; ask again")


def _rows(table: str) -> Iterator[_Row]:
    for line in table.split("\n"):
        if not line.strip() or line.startswith((*_COLUMNS, _NO_DATA)):
            continue
        found = _ROW.fullmatch(line)
        if found is None:
            raise RasError(
                f"NCCL's RAS lists communicators in an unknown form ({line[:80]!r}); read `ncclras -v`"
            )
        group, communicators, ranks, status, errors = found.groups()
        kinds = () if errors == _FINE else tuple(errors.split(","))
        yield _Row(int(group), int(communicators), int(ranks), status, kinds)


def _blocks(body: str) -> Iterator[_Block]:
    block: _Block | None = None
    for line in body.split("\n"):
        if not line.strip():
            continue
        if block is not None and line.startswith(" "):
            block.details.append(line.strip())
            continue
        if block is not None:
            yield block
        block = _Block(line.strip())
    if block is not None:
        yield block


def _demand_all(rows: Sequence[_Row], blocks: Sequence[_Block]) -> None:
    """Each error in the table has its details below, one block a communicator, or the end of the text is missing."""
    heads = [(block.group, block.kind) for block in blocks if block.details]
    if any(heads.count((row.group, kind)) != row.communicators for row in rows for kind in row.errors):
        raise _early()


def _of_table(rows: Sequence[_Row]) -> Iterator[str]:
    if not rows:
        yield _NO_DATA
    for row in rows:
        if row.status == _ABORTED and not row.errors:
            yield f"#{row.group}: communicators of {row.ranks} ranks have status {_ABORTED}: {row.communicators}"


def _of_blocks(blocks: Sequence[_Block]) -> Iterator[str]:
    for block in blocks:
        for topic in block.topics():
            yield f"{block.head}: {'; '.join(topic)}" if topic else block.head


def _silent(blocks: Sequence[_Block], spanning: Sequence[_Block]) -> tuple[int, ...]:
    # NCCL 2.24 also lists ranks that have left the communicator, which happens without a silent process.
    if not any(block.group is None and block.kind in {"INCOMPLETE", "DEAD"} for block in blocks):
        return ()
    return tuple(sorted(set(_missing(spanning))))


def _missing(blocks: Sequence[_Block]) -> Iterator[int]:
    for block in blocks:
        if block.kind == "INCOMPLETE":
            yield from _named(block.details)


def _named(lines: Sequence[str]) -> Iterator[int]:
    for line in lines:
        if found := _RANK.match(line):
            yield int(found[1])
        elif found := _LISTED.match(line):
            yield from map(int, found[1].split(","))


def _not_members(topic: Sequence[str]) -> Iterator[int]:
    """Ranks that answered and are not in the communicator."""
    within = False
    for line in topic:
        if found := _NOT_MEMBER.match(line):
            yield int(found[1])
        elif _NOT_MEMBERS.match(line):
            within = True
            continue
        elif _LISTED.match(line) or (within and _RANK.match(line)):
            yield from _named([line])
            continue
        within = False


def _launches(block: _Block, spanning: Sequence[_Block], size: int) -> Iterator[LaunchCounts]:
    """Of a communicator: the kinds of collectives in which its ranks differ."""
    topics = block.topics()
    same = block.head.rpartition(" ")[0]
    absent = set(_missing([other for other in spanning if other.head.startswith(same)]))
    absent.update(rank for topic in topics if topic[:1] == [_STATUS] for rank in _not_members(topic))
    for topic in topics:
        if topic and _COUNTS.match(topic[0]):
            yield _one_kind(topic[1:], size, absent)


def _one_kind(lines: Sequence[str], size: int, absent: set[int]) -> LaunchCounts:
    # Sets of ranks with the same number: how many, the number, and those that are named.
    sets: list[tuple[int, int, list[int]]] = []
    for line in lines:
        if found := _SEVERAL.match(line):
            sets.append((int(found[1]), int(found[2] or 0), []))
        elif found := _SINGLE.match(line):
            sets.append((1, int(found[2] or 0), [int(found[1])]))
        elif (found := _RANK.match(line)) and sets:
            sets[-1][2].append(int(found[1]))
    if any(named and len(named) != count for count, _, named in sets):
        raise _early()
    by_rank = {rank: number for _, number, named in sets for rank in named}
    unnamed = [(count, number) for count, number, named in sets if not named]
    if len(unnamed) == 1 and size <= _MOST_RANKS:
        # NCCL names the ranks of small sets only; the large one is the rest.
        (count, number) = unnamed[0]
        rest = set(range(size)) - by_rank.keys() - absent
        if len(rest) == count:
            by_rank |= dict.fromkeys(rest, number)
            unnamed = []
    return LaunchCounts(by_rank, max((number for _, number, _ in sets), default=0), not unnamed)
