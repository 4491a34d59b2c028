"""Converts the JSON output of nccl-tests (`-J FILE`) and nvbandwidth (`-j`) to a document. Pure.

Only numbers are used. Both tools write more, such as the whole environment and host names, which is ignored.
Formats according to their sources: nccl-tests' src/util.cu, versions 2 and 3; nvbandwidth's json_output.cpp.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NoReturn

from runner.catalogue import METRICS, PROBES
from runner.entry.model import Scalar
from runner.errors import DocumentError
from runner.evidence.record import Document, Measurement
from runner.stats import percentile

_NCCL_TESTS_VERSIONS = (2, 3)
_GIGA, _MICRO = 1e9, 1e-6
# Larger values are not measurements, and a unit conversion could overflow.
_LARGEST = 1e20
_NO_VALUE = "N/A"


def tool_document(data: Any, name: str) -> Document | None:
    """The document for the JSON of a known tool; None if the JSON is from another program.

    Raises:
        DocumentError: the JSON is from a known tool, but truncated, of an unknown version, or reports an error.
    """
    if not isinstance(data, dict):
        return None
    if {"nccl_version", "args"} <= data.keys():
        return _nccl_tests(data, name)
    if isinstance(data.get("nvbandwidth"), dict):
        return _nvbandwidth(data["nvbandwidth"], name)
    return None


def _nccl_tests(data: Mapping[str, Any], name: str) -> Document:
    if data.get("version") not in _NCCL_TESTS_VERSIONS:
        known = " and ".join(map(str, _NCCL_TESTS_VERSIONS))
        _refuse(name, f"unknown nccl-tests format {data.get('version')!r} (known: {known})")
    results, program = data.get("results"), _first(data.get("args"))
    if not isinstance(results, list) or not results or "end_time" not in data:
        _refuse(name, "nccl-tests did not finish: no results or no end time")
    op = PurePosixPath(program).name.removesuffix("_perf")
    if not op or op == PurePosixPath(program).name:
        _refuse(name, f"the collective of nccl-tests is unknown: its program is {program!r}")
    ranks = _ranks(data.get("config"))
    found = [one for result in results for one in _rows(result, op, ranks, name)]
    wrong = sum(one.value for one in found if one.name == "wrong_elements")
    checked = any(one.name == "wrong_elements" for one in found)
    if checked:
        found.append(_single("wrong_elements", wrong, {}))
    return Document(
        probe="nccl_tests",
        method_version=PROBES["nccl_tests"].method_version,
        status="symptom" if wrong else "ok",
        reason=f"{op}: {wrong:,.0f} wrong elements" if wrong else None,
        effective={"op": op, "ranks": ranks, "checked": checked},
        details={"nccl": data["nccl_version"] if isinstance(data["nccl_version"], int) else None},
        measurements=tuple(found),
    )


def _first(arguments: Any) -> str:
    return str(arguments[0]) if isinstance(arguments, list) and arguments else ""


def _ranks(config: Any) -> int | None:
    """Ranks of the run: threads × GPUs per thread × processes; None if a factor is missing."""
    if not isinstance(config, dict):
        return None
    parts = (config.get("nthreads"), config.get("ngpus"), config.get("devices"))
    match parts:
        case (int(threads), int(gpus), list(processes)) if processes:
            return threads * gpus * len(processes)
    return None


def _rows(result: Any, op: str, ranks: int | None, name: str) -> Iterator[Measurement]:
    size = result.get("size") if isinstance(result, dict) else None
    if not isinstance(size, int):
        _refuse(name, "a result of nccl-tests has no size")
    for place in ("out_of_place", "in_place"):
        numbers = result.get(place)
        if numbers is None:
            continue  # the collective has no in-place or out-of-place form
        labels: dict[str, Scalar] = {"op": op, "bytes": size, "place": place}
        if ranks is not None:
            labels["ranks"] = ranks
        where = f"{op} of {size} bytes, {place}"
        yield _single("bus_bandwidth", _number(numbers, "bus_bw", where, name) * _GIGA, labels)
        yield _single("algorithm_bandwidth", _number(numbers, "alg_bw", where, name) * _GIGA, labels)
        yield from _times(result.get(f"{place}_per_iter"), numbers, labels, where, name)
        if numbers.get("nwrong") is not None:
            yield _single("wrong_elements", _number(numbers, "nwrong", where, name), labels)


def _times(
    per_iteration: Any, numbers: Any, labels: Mapping[str, Scalar], where: str, name: str
) -> Iterator[Measurement]:
    """Times for one size: of every iteration if the tool recorded them (`-I 1`), else the mean."""
    if not isinstance(per_iteration, dict) or not isinstance(per_iteration.get("times_us"), list):
        # With -C the tool writes cpu_time, which is a different quantity.
        if "time" in numbers:
            mean = _number(numbers, "time", where, name) * _MICRO
            yield Measurement(
                name="collective_time", labels=dict(labels), value=mean, unit="s", statistic="mean"
            )
        return
    times = per_iteration["times_us"]
    if not times:
        _refuse(name, f"nccl-tests recorded no iteration time of {where}")
    seconds = tuple(_number({"times_us": time}, "times_us", where, name) * _MICRO for time in times)
    for metric, percent, statistic in (
        ("collective_time", 50, "median"),
        ("collective_time_p95", 95, "p95"),
    ):
        yield Measurement(
            name=metric,
            labels=dict(labels),
            value=percentile(seconds, percent),
            unit="s",
            statistic=statistic,
            samples=seconds,
        )


def _nvbandwidth(data: Mapping[str, Any], name: str) -> Document:
    if data.get("error"):
        _refuse(name, f"nvbandwidth ended with an error: {str(data['error'])[:200]}")
    cases = data.get("testcases")
    if not isinstance(cases, list) or not cases:
        _refuse(name, "nvbandwidth ran no test")
    found: list[Measurement] = []
    waived = []
    for case in cases:
        if not isinstance(case, dict) or not isinstance(case.get("name"), str):
            _refuse(name, "a test of nvbandwidth has no name")
        if case.get("status") == "Waived":
            waived.append(case["name"])
        elif case.get("status") == "Passed":
            found += _cells(case, name)
        else:
            why = f": {str(case['error'])[:200]}" if case.get("error") else ""
            _refuse(name, f"nvbandwidth's {case['name']} ended as {case.get('status')!r}{why}")
    skipped = f"nvbandwidth waived {', '.join(waived)}: not supported on this node" if waived else None
    return Document(
        probe="nvbandwidth",
        method_version=PROBES["nvbandwidth"].method_version,
        status="ok" if found else "not_applicable",
        reason=skipped,
        details={"waived": list(waived)},
        measurements=tuple(found),
    )


def _cells(case: Mapping[str, Any], name: str) -> Iterator[Measurement]:
    """One measurement per cell of a test's matrix. Cells are numbers as text, or `N/A`."""
    test, rows = case["name"], case.get("bandwidth_matrix")
    if not str(case.get("bandwidth_description", "")).rstrip().endswith("(GB/s)"):
        return  # a latency, not a bandwidth
    if not isinstance(rows, list):
        _refuse(name, f"nvbandwidth's {test} has no matrix")
    for row, cells in enumerate(rows):
        if not isinstance(cells, list):
            _refuse(name, f"nvbandwidth's {test} has an invalid row")
        for column, cell in enumerate(cells):
            if cell == _NO_VALUE:
                continue
            value = _finite(cell)
            if value is None:
                _refuse(name, f"nvbandwidth's {test} has the cell {_short(cell)}, which is not a number")
            yield _single("copy_bandwidth", value * _GIGA, {"test": test, "row": row, "column": column})


def _number(numbers: Any, key: str, where: str, name: str) -> float:
    value = numbers.get(key) if isinstance(numbers, dict) else None
    number = _finite(value) if isinstance(value, int | float) else None
    if number is None:
        _refuse(name, f"nccl-tests has no number for {key} of {where}")
    return number


def _finite(value: Any) -> float | None:
    """A number, or a number as text, as a float; None for anything else: booleans, NaN, values out of range."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < _LARGEST else None


def _short(cell: Any) -> str:
    # Python does not convert numbers of thousands of digits to text.
    return "with too many digits" if isinstance(cell, int) else repr(str(cell)[:20])


def _single(metric: str, value: float, labels: Mapping[str, Scalar]) -> Measurement:
    unit = METRICS[metric].unit
    return Measurement(name=metric, labels=dict(labels), value=value, unit=unit, statistic="single")


def _refuse(name: str, what: str) -> NoReturn:
    raise DocumentError(f"{name}: {what}")
