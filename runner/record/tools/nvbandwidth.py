"""A run of nvbandwidth: its JSON, and the document of a run read from JSON or from text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.entry.model import Scalar
from runner.record.model import Document, Measurement
from runner.record.tools.common import GIGA, NO_VALUE, finite, numbered, one_number, refuse
from runner.vocabulary import shared
from runner.vocabulary.model import Declaration

# Bidirectional tests between devices give three matrices: of each direction, and of both together.
PARTS = ("first", "second", "total")

TOOL = Declaration(
    "nvbandwidth",
    method_version=2,
    summary="Copies as nvbandwidth measures them",
    metrics=(shared.COPY_BANDWIDTH,),
    labels=("test", "part", "row", "column", "run"),
)


@dataclass(frozen=True)
class Matrix:
    """The bandwidths of one test, in GB/s.

    Attributes:
        test: the test.
        part: of a bidirectional test between devices, one of `PARTS`; else None.
        rows: the cells, as numbers; None where there is no path.
    """

    test: str
    part: str | None
    rows: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class NvbandwidthRun:
    """The matrices of the tests that passed, and the names of those that were waived."""

    matrices: tuple[Matrix, ...]
    waived: tuple[str, ...]


def nvbandwidth_document(run: NvbandwidthRun) -> Document:
    """The document of a run; one in which every test was waived does not apply."""
    found = tuple(numbered(one for matrix in run.matrices for one in _measurements(matrix)))
    skipped = (
        f"nvbandwidth waived {', '.join(run.waived)}: not supported on this node" if run.waived else None
    )
    return Document(
        probe="nvbandwidth",
        method_version=TOOL.method_version,
        status="ok" if found else "not_applicable",
        reason=skipped,
        details={"waived": list(run.waived)},
        measurements=found,
    )


def _measurements(matrix: Matrix) -> Iterator[Measurement]:
    labels: dict[str, Scalar] = {"test": matrix.test}
    if matrix.part is not None:
        labels["part"] = matrix.part
    for row, cells in enumerate(matrix.rows):
        for column, cell in enumerate(cells):
            if cell is not None:
                yield one_number("copy_bandwidth", cell * GIGA, {**labels, "row": row, "column": column})


def cells_of(cells: Sequence[Any], test: str, name: str) -> tuple[float | None, ...]:
    """A row's cells: numbers, numbers as text, or `N/A`.

    Raises:
        DocumentError: a cell is none of these.
    """
    found = []
    for cell in cells:
        value = None if cell == NO_VALUE else finite(cell)
        if value is None and cell != NO_VALUE:
            refuse(name, f"nvbandwidth's {test} has the cell {_short(cell)}, which is not a number")
        found.append(value)
    return tuple(found)


def read_nvbandwidth_json(data: Mapping[str, Any], name: str) -> NvbandwidthRun:
    """Read the JSON of `-j`.

    Raises:
        DocumentError: it reports an error, or a test has no matrix of numbers.
    """
    if data.get("error"):
        refuse(name, f"nvbandwidth ended with an error: {str(data['error'])[:200]}")
    cases = data.get("testcases")
    if not isinstance(cases, list) or not cases:
        refuse(name, "nvbandwidth ran no test")
    found: list[Matrix] = []
    waived = []
    for case in cases:
        if not isinstance(case, dict) or not isinstance(case.get("name"), str):
            refuse(name, "a test of nvbandwidth has no name")
        if case.get("status") == "Waived":
            waived.append(case["name"])
        elif case.get("status") == "Passed":
            found += _matrices(case, name)
        else:
            why = f": {str(case['error'])[:200]}" if case.get("error") else ""
            refuse(name, f"nvbandwidth's {case['name']} ended as {case.get('status')!r}{why}")
    return NvbandwidthRun(tuple(found), tuple(waived))


def _matrices(case: Mapping[str, Any], name: str) -> list[Matrix]:
    test, rows = case["name"], case.get("bandwidth_matrix")
    if not str(case.get("bandwidth_description", "")).rstrip().endswith("(GB/s)"):
        return []  # a latency, not a bandwidth
    if not isinstance(rows, list):
        refuse(name, f"nvbandwidth's {test} has no matrix")
    if not all(isinstance(cells, list) for cells in rows):
        refuse(name, f"nvbandwidth's {test} has an invalid row")
    read = [cells_of(cells, test, name) for cells in rows]
    side = len(read) // len(PARTS)
    # The matrices of such a test are appended to each other, each as long as wide.
    if (
        is_bidirectional(test)
        and side
        and len(read) == side * len(PARTS)
        and all(len(row) == side for row in read)
    ):
        return [
            Matrix(test, part, tuple(read[place * side : (place + 1) * side]))
            for place, part in enumerate(PARTS)
        ]
    return [Matrix(test, None, tuple(read))]


def is_bidirectional(test: str) -> bool:
    """Whether a test copies between devices in both directions at once, and so may have three matrices."""
    return "device_to_device" in test and "bidirectional" in test


def _short(cell: Any) -> str:
    # Python does not convert numbers of thousands of digits to text.
    return "with too many digits" if isinstance(cell, int) else repr(str(cell)[:20])
