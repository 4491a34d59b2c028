"""The table that nccl-tests prints, of one program of one or many nodes.

Its header names the columns, which differ between versions and options: the operator and the root may be missing,
`#wrong` was `error` (the largest deviation) up to 2.11, `-C` has `cputime` instead of `time`, `-I 1` adds statistics of
the iterations, and a time stamp may end a row. The footer begins with `Out of bounds values`; without it, the program
did not finish. Older versions do not print the program's name: a line with the command must be there too.
"""

import re
from collections.abc import Iterator, Sequence

from runner.record.tools.common import GIGA, MICRO, NO_VALUE, finite, refuse, without_prefix
from runner.record.tools.nccl_tests import NcclTestsRow, NcclTestsRun, labels_of

# What a launcher may put before each line is bounded, so that a long line of another program costs no time.
_HEADER = re.compile(r"^(?P<prefix>.{0,200}?)#[ \t]+size[ \t]+count[ \t]+type\b.*$", re.MULTILINE)
_START = re.compile(r"^.{0,200}?#[ \t]+nThread[ \t]+\d+[ \t]+nGpus[ \t]", re.MULTILINE)
_ROW = re.compile(r"\s*\d{1,18}\s+\d{1,18}\s")
_STAMP = re.compile(r"\s\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\s*$")
# In place of the out-of-place columns where they are not measured.
_NO_BODY = " " * 30
_RANK = re.compile(
    r"^.{0,200}?#[ \t]+Rank[ \t]+(\d{1,6})(?:[ \t]+Group[ \t]+(\d{1,6}))?[ \t]+Pid[ \t]", re.MULTILINE
)
_BOUNDS = re.compile(r"#\s*Out of bounds values\s*:\s*\d+\s+(OK|FAILED)\b")
_AVERAGE = re.compile(r"#\s*Avg bus bandwidth\s*:\s*\S")
_VERSION_CODE = re.compile(r"\bnccl-library=(\d{4,6})\b")
_VERSION = re.compile(r"\bNCCL version (\d{1,2})\.(\d{1,2})\.(\d{1,2})\b")
_OPS = (
    "all_reduce all_gather alltoallv alltoall broadcast gather hypercube reduce_scatter reduce scatter sendrecv".split()  # noqa: SIM905 - as a list it would be one name a line
)
_PROGRAM = re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(_OPS)})_perf(?![A-Za-z0-9])")
_TIMES = ("time", "cputime")


def is_nccl_tests_table(text: str) -> bool:
    """Whether this is the output of nccl-tests, whole or not."""
    return _START.search(text) is not None or _HEADER.search(text) is not None


def read_nccl_tests_table(text: str, name: str) -> NcclTestsRun:
    """Read the output of one program of nccl-tests.

    Raises:
        DocumentError: it did not finish, its program is not named, or a row does not have the header's columns.
    """
    header = _HEADER.search(text)
    if header is None:
        refuse(name, "nccl-tests did not finish: its table has no header")
    if len(_START.findall(text)) > 1 or _HEADER.search(text[header.end() :]) is not None:
        refuse(name, "there are several runs of nccl-tests; give the output of one")
    lines = [*without_prefix(text[header.end() :].splitlines(), header["prefix"])]
    # Of a line that was cut the number may be cut too.
    ended = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if not any(_AVERAGE.search(line) for line in ended):
        refuse(name, "nccl-tests did not finish: there is no line with the average bus bandwidth")
    columns = header[0].removeprefix(header["prefix"]).lstrip("#").split()
    if not {"algbw", "busbw"} <= set(columns) or not set(_TIMES) & set(columns):
        refuse(name, "the header of nccl-tests' table lacks a column: time, algbw or busbw")
    starts = [place for place, column in enumerate(columns) if column in _TIMES]
    if len(starts) > 1 and columns[starts[0] : starts[1]] != _without_stamp(columns)[starts[1] :]:
        refuse(name, "the header of nccl-tests' table has other columns in place than out of place")
    rows = tuple(row for line in lines if _ROW.match(line) for row in _rows(line, columns, name))
    if not rows:
        refuse(name, "nccl-tests has no row of results")
    bounds = [found[1] for found in map(_BOUNDS.search, lines) if found]
    return NcclTestsRun(_op(text, name), _ranks(text), _version(text), rows, "FAILED" in bounds)


def _op(text: str, name: str) -> str:
    found: list[str] = sorted(set(_PROGRAM.findall(text)))
    if not found:
        refuse(
            name,
            "the program of nccl-tests is not named; put its command above, as in: # all_reduce_perf -g 8",
        )
    if len(found) > 1:
        refuse(name, f"several programs of nccl-tests are named ({', '.join(found)}); give the output of one")
    return found[0]


def _ranks(text: str) -> int | None:
    """The ranks of the communicator of the first rank that is listed."""
    groups = {int(rank): group for rank, group in _RANK.findall(text)}
    if not groups:
        return None
    first = groups[min(groups)]
    # Long lists of devices are cut; ranks are numbered through.
    return max(groups) + 1 if len(set(groups.values())) == 1 else list(groups.values()).count(first)


def _version(text: str) -> int | None:
    code = _VERSION_CODE.search(text)
    if code:
        return int(code[1])
    found = _VERSION.search(text)
    return int(found[1]) * 10_000 + int(found[2]) * 100 + int(found[3]) if found else None


def _without_stamp(columns: Sequence[str]) -> list[str]:
    return [column for column in columns if column != "timestamp"]


def _rows(line: str, columns: Sequence[str], name: str) -> Iterator[NcclTestsRow]:
    starts = [place for place, column in enumerate(columns) if column in _TIMES]
    if "timestamp" in columns:
        columns = _without_stamp(columns)
        line = _STAMP.sub("", line)
    cells = line.split()
    places = dict(zip(("out_of_place", "in_place"), starts, strict=False))
    width = len(columns) - starts[-1]
    if len(cells) == len(columns) - width and _NO_BODY in line:
        cells = [*cells[: starts[0]], *[NO_VALUE] * width, *cells[starts[0] :]]
        del places["out_of_place"]
    if len(cells) == len(columns) - 1 and "redop" in columns:
        # Collectives without an operator leave its column empty in some versions.
        cells.insert(columns.index("redop"), "")
    if len(cells) != len(columns):
        refuse(
            name, f"nccl-tests has {len(cells)} cells under {len(columns)} columns: {line.strip()[:100]!r}"
        )
    lead = dict(zip(columns[: starts[0]], cells, strict=False))
    labels = labels_of(lead.get("type"), lead.get("redop"), lead.get("root"))
    for place, start in places.items():
        values = dict(zip(columns[start : start + width], cells[start : start + width], strict=True))
        yield _row(int(lead["size"]), place, labels, values, name)


def _row(
    size: int,
    place: str,
    labels: tuple[str | None, str | None, int | None],
    values: dict[str, str],
    name: str,
) -> NcclTestsRow:
    def number(column: str) -> float:
        value = finite(values.get(column))
        if value is None:
            cell = values.get(column, "")[:20]
            refuse(name, f"nccl-tests has {cell!r} for {column} of {size} bytes, {place}, not a number")
        return value

    return NcclTestsRow(
        size,
        place,
        *labels,
        number("algbw") * GIGA,
        number("busbw") * GIGA,
        number("time") * MICRO if "time" in values else None,
        wrong=number("#wrong") if values.get("#wrong", NO_VALUE) != NO_VALUE else None,
    )
