"""The answer about a job that hangs, for a person: one sentence, a table of its ranks, what comes next."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from runner.base.plain import one_line
from runner.base.words import counted, ranges
from runner.cli.console import console_on
from runner.hang.findings import HangKind, HangVerdict, RankRow
from runner.hang.model import GpuLoad, RankLook, Snapshot, Unseen
from runner.hang.wording import ranks_named

_CALM = frozenset({HangKind.MOVING, HangKind.UNKNOWN})
# More rows than a screen has are of no use; the JSON has every rank.
_MOST_ROWS = 40
_HEADINGS = ("rank", "node", "pid", "CPU", "GPU", "state", "does")
# What a narrow terminal does without, first to last, so that the last column has some room.
_DISPENSABLE = ("state", "CPU", "GPU", "pid", "node")
_ROOM = 24
_MOST_REASONS = 30
_WIDEST_RANKS = 20


def print_hangs(
    stream: TextIO, snapshot: Snapshot, verdicts: Sequence[HangVerdict], width: int | None = None
) -> None:
    """Print the answer about each job. `width`: in columns; the terminal's when left out."""
    console = console_on(stream, width)
    for verdict in verdicts:
        looks = [look for look in snapshot.ranks if look.job == verdict.job]
        if len(verdicts) > 1:
            _line(console, f"Job {verdict.job or 'without an address'}:")
        _line(console, _sentence(verdict))
        console.print(_table(verdict.rows, looks, console.width))
        if verdict.entry is not None:
            _line(console, f"Next: runbook show {verdict.entry}")
    if not verdicts:
        _line(console, "no rank was seen")
    for line in _facts(snapshot):
        _line(console, line)


def _line(console: Console, text: str) -> None:
    # Not wrapped: a continuation line could be mistaken for a statement.
    console.print(escape(one_line(text)), highlight=False, soft_wrap=True)


def _sentence(verdict: HangVerdict) -> str:
    return f"{'unknown: ' if verdict.kind is HangKind.UNKNOWN else ''}{verdict.sentence}"


def _table(rows: Sequence[RankRow], looks: Sequence[RankLook], width: int) -> Table:
    by_place = {(look.rank, look.node, look.pid): look for look in looks}
    groups: dict[tuple[object, ...], list[tuple[RankRow, RankLook | None]]] = {}
    for row in rows:
        look = by_place.get((row.rank, row.node, row.pid))
        state = look.state if look else None
        groups.setdefault((row.culprit, row.does, state), []).append((row, look))
    shown = list(groups.values())
    cells = [_cells(group) for group in shown[:_MOST_ROWS]]
    if len(shown) > _MOST_ROWS:
        left = sum(len(group) for group in shown[_MOST_ROWS:])
        cells.append(("…", "", "", "", "", "", f"and {counted(left, 'rank')}; --json has all of them"))
    # A host without GPUs, and files, leave columns without a value.
    kept = [at for at, _ in enumerate(_HEADINGS) if any(row[at] for row in cells)]
    widths = [max(len(line[at]) for line in (_HEADINGS, *cells)) + 2 for at, _ in enumerate(_HEADINGS)]
    for name in _DISPENSABLE:
        if sum(widths[at] for at in kept[:-1]) + _ROOM > width:
            kept = [at for at in kept if _HEADINGS[at] != name]
    columns = [
        Column(_HEADINGS[at], overflow="fold", ratio=1 if _HEADINGS[at] == "does" else None) for at in kept
    ]
    table = Table(*columns, box=None, expand=True, pad_edge=False)
    for number, line in enumerate(cells):
        culprit = number < _MOST_ROWS and shown[number][0][0].culprit
        table.add_row(*(escape(line[at]) for at in kept), style="bold" if culprit else None)
    return table


def _cells(group: Sequence[tuple[RankRow, RankLook | None]]) -> tuple[str, ...]:
    rows, looks = [row for row, _ in group], [look for _, look in group if look is not None]
    numbers = [row.rank for row in rows if row.rank is not None]
    nodes = list(dict.fromkeys(row.node for row in rows if row.node))
    pids = [row.pid for row in rows if row.pid is not None]
    states = [look.state.value for look in looks if look.state is not None]
    return (
        _ranks(numbers),
        nodes[0] if len(nodes) == 1 else counted(len(nodes), "node") if nodes else "",
        str(pids[0]) if len(pids) == 1 else "",
        _share([look.cpu_share for look in looks if look.cpu_share is not None]),
        _gpu([look.gpu for look in looks if look.gpu is not None]),
        states[0] if states else "",
        one_line(rows[0].does),
    )


def _ranks(numbers: Sequence[int]) -> str:
    """Short, so that what they do has room: `0-12, 14-63`, or `0, 2, 4, … (32)`."""
    text = ranges(numbers)
    return (
        text
        if len(text) <= _WIDEST_RANKS
        else f"{ranges(numbers, 2).partition(' and ')[0]}, … ({len(numbers)})"
    )


def _share(shares: Sequence[float]) -> str:
    return _range([100 * share for share in shares], "%")


def _gpu(loads: Sequence[GpuLoad]) -> str:
    parts = [
        _range([100 * load.utilisation for load in loads if load.utilisation is not None], "%"),
        _range([load.power_w for load in loads if load.power_w is not None], "W"),
    ]
    return " ".join(part for part in parts if part)


def _range(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return f"{low if low == high else f'{low}-{high}'}{unit}"


def _facts(snapshot: Snapshot) -> Iterator[str]:
    """What no rank's row says: Xids, NCCL's own findings, and what could not be seen."""
    for (node, code), number in Counter((one.node, one.code) for one in snapshot.xids).items():
        yield f"Xid {code} on {node}{f', {number} times' if number > 1 else ''}: runbook match on its kernel log"
    if snapshot.ras is not None:
        findings = snapshot.ras.findings
        said = "no error and no warning" if snapshot.ras.healthy else "; ".join(findings) or "not healthy"
        yield f"NCCL RAS ({snapshot.ras.version}): {said}"
    reasons = list(_reasons(snapshot))
    yield from reasons[:_MOST_REASONS]
    if len(reasons) > _MOST_REASONS:
        yield f"and {counted(len(reasons) - _MOST_REASONS, 'further reason')}; --json has all of them"


def _reasons(snapshot: Snapshot) -> Iterator[str]:
    yield from (f"not seen: {line}" for line in _once(snapshot.unseen))
    by_reason: dict[Unseen, list[RankLook]] = {}
    for look in snapshot.ranks:
        for one in look.unseen:
            by_reason.setdefault(one, []).append(look)
    for one, looks in by_reason.items():
        yield f"not seen: {one.source} of {_of_ranks(looks, snapshot)}: {one.reason}"


def _once(unseen: Iterable[Unseen]) -> Iterator[str]:
    for one, number in Counter(unseen).items():
        yield f"{one.source}{f' on {number} nodes' if number > 1 else ''}: {one.reason}"


def _of_ranks(looks: Sequence[RankLook], snapshot: Snapshot) -> str:
    numbers = [look.rank for look in looks if look.rank is not None]
    if len(looks) == len(snapshot.ranks):
        return "every rank" if len(looks) > 1 else "the rank"
    if len(numbers) < len(looks) or len({look.job for look in snapshot.ranks}) > 1:
        return counted(len(looks), "rank")
    return ranks_named(numbers)
