"""A run of nccl-tests: its JSON, and the document of a run read from JSON or from text."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from runner.base.stats import percentile
from runner.entry.model import Scalar
from runner.record.model import Document, Measurement
from runner.record.tools.common import GIGA, MICRO, finite, numbered, one_number, refuse
from runner.vocabulary import shared
from runner.vocabulary.model import Declaration

_VERSIONS = (2, 3)
_PLACES = ("out_of_place", "in_place")
# NVIDIA's containers have `all_reduce_perf` and, with MPI, `all_reduce_perf_mpi`.
_PROGRAM = re.compile(r"([a-z]\w*?)_perf(?:[._-].+)?")
_WORD = re.compile(r"[A-Za-z]\w{0,29}")

TOOL = Declaration(
    "nccl_tests",
    method_version=2,
    summary="Collective bandwidth as nccl-tests measures it",
    metrics=(
        shared.BUS_BANDWIDTH,
        shared.ALGORITHM_BANDWIDTH,
        shared.COLLECTIVE_TIME,
        shared.COLLECTIVE_TIME_P95,
        shared.WRONG_ELEMENTS,
    ),
    labels=("op", "bytes", "place", "ranks", "type", "redop", "root", "run"),
)


@dataclass(frozen=True)
class NcclTestsRow:
    """The results of one message size, data type, operator and root, in or out of place.

    Attributes:
        size: bytes of the message.
        place: `in_place` or `out_of_place`.
        kind: the data type; None if it is not told.
        redop: the operator; None if the collective has none.
        root: the root; None if the collective has none.
        algorithm, bus: bandwidths in B/s.
        mean: mean time in s; None if the tool measured another time.
        times: the time of each iteration in s, if it recorded them.
        wrong: wrong elements; None if the results were not checked.
    """

    size: int
    place: str
    kind: str | None
    redop: str | None
    root: int | None
    algorithm: float
    bus: float
    mean: float | None
    times: tuple[float, ...] = ()
    wrong: float | None = None


@dataclass(frozen=True)
class NcclTestsRun:
    """One run of one program.

    Attributes:
        op: the collective, as nccl-tests calls it.
        ranks: ranks of a communicator; None if unknown.
        version: NCCL's version code; None if unknown.
        rows: its results.
        failed: whether the program itself calls results out of bounds.
    """

    op: str
    ranks: int | None
    version: int | None
    rows: tuple[NcclTestsRow, ...]
    failed: bool


def op_of(program: str) -> str | None:
    """The collective of a program's name or path, or None: `all_reduce` of `build/all_reduce_perf_mpi`."""
    found = _PROGRAM.fullmatch(PurePosixPath(program).name)
    return found[1] if found else None


def labels_of(kind: Any, redop: Any, root: Any) -> tuple[str | None, str | None, int | None]:
    """Data type, operator and root as they stand in a row; None for what the collective does not have."""
    number = finite(root)
    return (
        kind if isinstance(kind, str) and _WORD.fullmatch(kind) else None,
        redop if isinstance(redop, str) and _WORD.fullmatch(redop) and redop != "none" else None,
        int(number) if number is not None and number >= 0 else None,
    )


def nccl_tests_document(run: NcclTestsRun) -> Document:
    """The document of a run; wrong elements are the symptom."""
    found = [*numbered(one for row in run.rows for one in _measurements(row, run))]
    counts = [row.wrong for row in run.rows if row.wrong is not None]
    wrong = sum(counts)
    if counts:
        found.append(one_number("wrong_elements", wrong, {}))
    reason = f"{run.op}: {wrong:,.0f} wrong elements" if wrong else None
    if run.failed and not wrong:
        reason = f"{run.op}: nccl-tests calls results out of bounds"
    return Document(
        probe="nccl_tests",
        method_version=TOOL.method_version,
        status="symptom" if reason else "ok",
        reason=reason,
        effective={"op": run.op, "ranks": run.ranks, "checked": bool(counts)},
        details={"nccl": run.version},
        measurements=tuple(found),
    )


def _measurements(row: NcclTestsRow, run: NcclTestsRun) -> Iterator[Measurement]:
    labels: dict[str, Scalar] = {"op": run.op, "bytes": row.size, "place": row.place}
    of_run = {"ranks": run.ranks, "type": row.kind, "redop": row.redop, "root": row.root}
    labels |= {key: value for key, value in of_run.items() if value is not None}
    yield one_number("bus_bandwidth", row.bus, labels)
    yield one_number("algorithm_bandwidth", row.algorithm, labels)
    if row.times:
        for metric, percent, statistic in (
            ("collective_time", 50, "median"),
            ("collective_time_p95", 95, "p95"),
        ):
            value = percentile(row.times, percent)
            yield Measurement(
                name=metric, labels=labels, value=value, unit="s", statistic=statistic, samples=row.times
            )
    elif row.mean is not None:
        yield Measurement(name="collective_time", labels=labels, value=row.mean, unit="s", statistic="mean")
    if row.wrong is not None:
        yield one_number("wrong_elements", row.wrong, labels)


def read_nccl_tests_json(data: Mapping[str, Any], name: str) -> NcclTestsRun:
    """Read the JSON of `-J`.

    Raises:
        DocumentError: it is truncated or of an unknown version.
    """
    if data.get("version") not in _VERSIONS:
        known = " and ".join(map(str, _VERSIONS))
        refuse(name, f"unknown nccl-tests format {data.get('version')!r} (known: {known})")
    results, program = data.get("results"), _first(data.get("args"))
    if not isinstance(results, list) or not results or "end_time" not in data:
        refuse(name, "nccl-tests did not finish: no results or no end time")
    op = op_of(program)
    if op is None:
        refuse(name, f"the collective of nccl-tests is unknown: its program is {program!r}")
    version, bounds = data["nccl_version"], data.get("out_of_bounds")
    return NcclTestsRun(
        op,
        _ranks(data.get("config")),
        version if isinstance(version, int) else None,
        tuple(row for result in results for row in _rows(result, op, name)),
        isinstance(bounds, dict) and bounds.get("okay") == "false",
    )


def _first(arguments: Any) -> str:
    return str(arguments[0]) if isinstance(arguments, list) and arguments else ""


def _ranks(config: Any) -> int | None:
    """Ranks of a communicator: threads × GPUs per thread × processes of its group; None if a factor is missing."""
    if not isinstance(config, dict):
        return None
    parts = (config.get("nthreads"), config.get("ngpus"), config.get("devices"))
    match parts:
        case (int(threads), int(gpus), [first, *others]):
            own = first.get("group") if isinstance(first, dict) else None
            same = [one for one in others if (one.get("group") if isinstance(one, dict) else None) == own]
            return threads * gpus * (1 + len(same))
    return None


def _rows(result: Any, op: str, name: str) -> Iterator[NcclTestsRow]:
    size = result.get("size") if isinstance(result, dict) else None
    if not isinstance(size, int):
        refuse(name, "a result of nccl-tests has no size")
    labels = labels_of(result.get("type"), result.get("redop"), result.get("root"))
    for place in _PLACES:
        numbers = result.get(place)
        if numbers is None:
            continue  # the collective has no in-place or out-of-place form
        where = f"{op} of {size} bytes, {place}"
        bus = _number(numbers, "bus_bw", where, name) * GIGA
        algorithm = _number(numbers, "alg_bw", where, name) * GIGA
        times = _times(result.get(f"{place}_per_iter"), where, name)
        # With -C the tool writes cpu_time, which is a different quantity.
        mean = _number(numbers, "time", where, name) * MICRO if "time" in numbers and not times else None
        checked = numbers.get("nwrong") is not None
        wrong = _number(numbers, "nwrong", where, name) if checked else None
        yield NcclTestsRow(size, place, *labels, algorithm, bus, mean, times, wrong)


def _times(per_iteration: Any, where: str, name: str) -> tuple[float, ...]:
    """The time of every iteration, if the tool recorded them (`-I 1`)."""
    if not isinstance(per_iteration, dict) or not isinstance(per_iteration.get("times_us"), list):
        return ()
    times = per_iteration["times_us"]
    if not times:
        refuse(name, f"nccl-tests recorded no iteration time of {where}")
    return tuple(_number({"times_us": time}, "times_us", where, name) * MICRO for time in times)


def _number(numbers: Any, key: str, where: str, name: str) -> float:
    value = numbers.get(key) if isinstance(numbers, dict) else None
    number = finite(value) if isinstance(value, int | float) else None
    if number is None:
        refuse(name, f"nccl-tests has no number for {key} of {where}")
    return number
