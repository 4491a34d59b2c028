import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import DocumentError
from runner.record.documents import parse_json, read_document
from runner.record.model import Document
from runner.record.tools import tool_document

TOOLS = Path(__file__).parent / "tools"
ALL = (
    "nccl_tests_v3.json",
    "nccl_tests_v2_per_iteration.json",
    "nvbandwidth.json",
    "nvbandwidth_bidirectional.json",
)


def data(name: str) -> Any:
    return json.loads((TOOLS / name).read_text(encoding="utf-8"))


def read(name: str) -> Document:
    document = read_document(TOOLS / name)
    assert document is not None
    return document


def values(document: Document, metric: str, **labels: object) -> list[float]:
    return [
        one.value
        for one in document.measurements
        if one.name == metric and labels.items() <= one.labels.items()
    ]


def test_nccl_tests_gives_both_bandwidths_of_every_size_in_bytes_a_second() -> None:
    document = read("nccl_tests_v3.json")
    assert (document.probe, document.status) == ("nccl_tests", "ok")
    large = {"op": "all_reduce", "bytes": 8 << 30, "ranks": 8}
    assert values(document, "bus_bandwidth", **large, place="out_of_place") == [836.5e9]
    assert values(document, "algorithm_bandwidth", **large, place="in_place") == [478e9]
    assert values(document, "collective_time", **large, place="out_of_place") == [pytest.approx(17970.6e-6)]
    assert set(values(document, "wrong_elements")) == {0}


def test_times_of_single_iterations_are_kept_as_samples() -> None:
    document = read("nccl_tests_v2_per_iteration.json")
    times = [one for one in document.measurements if one.name == "collective_time"]
    assert [one.samples for one in times] == [pytest.approx((5e-05, 5.1e-05, 5.2e-05, 6e-05))] * 2
    assert values(document, "collective_time_p95")[0] == pytest.approx(58.8e-6)


def test_results_that_were_not_checked_are_not_called_right() -> None:
    document = read("nccl_tests_v2_per_iteration.json")
    assert document.effective == {"op": "broadcast", "ranks": 8, "checked": False}
    assert values(document, "wrong_elements") == []


def test_wrong_elements_are_the_symptom() -> None:
    broken = data("nccl_tests_v3.json")
    broken["results"][1]["in_place"]["nwrong"] = 17.0
    document = tool_document(broken, "f")
    assert document is not None
    assert (document.status, document.reason) == ("symptom", "all_reduce: 17 wrong elements")


def test_results_that_the_tool_calls_out_of_bounds_are_the_symptom() -> None:
    broken = data("nccl_tests_v3.json")
    broken["out_of_bounds"] = {"count": 2, "okay": "false"}
    document = tool_document(broken, "f")
    assert document is not None
    assert (document.status, document.reason) == (
        "symptom",
        "all_reduce: nccl-tests calls results out of bounds",
    )


@pytest.mark.parametrize(
    "program",
    [
        "all_reduce_perf",
        "/usr/local/bin/all_reduce_perf_mpi",
        "./all_reduce_perf.bin",
        "all_reduce_perf-2.18",
    ],
)
def test_the_program_may_be_that_of_a_container_with_mpi(program: str) -> None:
    run = data("nccl_tests_v3.json")
    run["args"][0] = program
    document = tool_document(run, "f")
    assert document is not None
    assert document.effective["op"] == "all_reduce"


def test_a_run_with_every_operator_and_type_gives_each_its_own_labels(tmp_path: Path) -> None:
    run = data("nccl_tests_v3.json")
    (row,) = run["results"][:1]
    both = [(kind, redop) for kind in ("float", "half") for redop in ("sum", "prod", "max", "min", "avg")]
    run["results"] = [{**row, "type": kind, "redop": redop} for kind, redop in both]
    document = written(tmp_path, run)
    found = [one for one in document.measurements if one.name == "bus_bandwidth"]
    places = ("out_of_place", "in_place")
    assert [(one.labels["type"], one.labels["redop"], one.labels["place"]) for one in found] == [
        (*one, place) for one in both for place in places
    ]


def test_a_broadcast_from_every_root_gives_each_its_own_labels(tmp_path: Path) -> None:
    run = data("nccl_tests_v2_per_iteration.json")
    (row,) = run["results"][:1]
    run["results"] = [{**row, "redop": "none", "root": f"{root:6d}"} for root in range(3)]
    document = written(tmp_path, run)
    found = [one.labels for one in document.measurements if one.name == "bus_bandwidth"]
    assert {labels["root"] for labels in found} == {0, 1, 2}
    assert all("redop" not in labels for labels in found)


def test_results_that_differ_in_no_label_are_numbered(tmp_path: Path) -> None:
    run = data("nccl_tests_v3.json")
    run["results"] = [run["results"][0], run["results"][1], run["results"][0]]
    found = [one.labels for one in written(tmp_path, run).measurements if one.name == "bus_bandwidth"]
    assert [labels.get("run") for labels in found] == [1, 1, None, None, 2, 2]


def test_ranks_are_those_of_one_communicator() -> None:
    run = data("nccl_tests_v3.json")
    run["config"] |= {"nthreads": 1, "ngpus": 4, "devices": [{"group": place % 2} for place in range(4)]}
    document = tool_document(run, "f")
    assert document is not None
    assert document.effective["ranks"] == 8


def test_the_matrices_of_a_bidirectional_test_are_told_apart(tmp_path: Path) -> None:
    document = read("nvbandwidth_bidirectional.json")
    test = {"test": "device_to_device_bidirectional_memcpy_write_ce"}
    for part, bandwidths in (
        ("first", [370e9, 371e9]),
        ("second", [372e9, 373e9]),
        ("total", [742e9, 744e9]),
    ):
        assert values(document, "copy_bandwidth", **test, part=part) == bandwidths
    assert {(one.labels["row"], one.labels["column"]) for one in document.measurements} == {(0, 1), (1, 0)}
    # Of the host there is one matrix, of one row.
    run = data("nvbandwidth_bidirectional.json")
    run["nvbandwidth"]["testcases"][0] |= {
        "name": "host_to_device_bidirectional_memcpy_ce",
        "bandwidth_matrix": [["5.5", "6.5"]],
    }
    assert [one.labels.get("part") for one in written(tmp_path, run).measurements] == [None, None]


def test_a_test_of_nvbandwidth_that_ran_twice_is_numbered(tmp_path: Path) -> None:
    run = data("nvbandwidth.json")
    run["nvbandwidth"]["testcases"] = [run["nvbandwidth"]["testcases"][1]] * 2
    assert [one.labels["run"] for one in written(tmp_path, run).measurements] == [1, 1, 2, 2]


def written(folder: Path, content: Any) -> Document:
    path = folder / "result.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    document = read_document(path)
    assert document is not None
    return document


def test_hosts_and_environments_stay_behind() -> None:
    text = read("nccl_tests_v3.json").model_dump_json()
    assert "gpu-node-17" not in text
    assert "hf_" not in text
    assert "somebody" not in text


def test_nvbandwidth_gives_a_measurement_a_cell_and_waived_is_no_pass() -> None:
    document = read("nvbandwidth.json")
    assert (document.probe, document.status) == ("nvbandwidth", "ok")
    pair = {"test": "device_to_device_memcpy_read_ce", "row": 0, "column": 1}
    assert values(document, "copy_bandwidth", **pair) == [760.25e9]
    assert len(document.measurements) == 4
    assert document.details["waived"] == ["multinode_device_to_device_memcpy_read_ce"]


def test_a_run_in_which_everything_was_waived_is_not_applicable() -> None:
    waived = data("nvbandwidth.json")
    waived["nvbandwidth"]["testcases"] = waived["nvbandwidth"]["testcases"][3:]
    document = tool_document(waived, "f")
    assert document is not None
    assert document.status == "not_applicable"


def changed(name: str, change: Callable[[Any], object]) -> Any:
    one = copy.deepcopy(data(name))
    change(one)
    return one


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (ALL[0], lambda one: one.update(version=9), "unknown nccl-tests format 9"),
        (ALL[0], lambda one: one.pop("end_time"), "did not finish"),
        (ALL[0], lambda one: one.update(results=[]), "did not finish"),
        (ALL[0], lambda one: one.update(args=["/bin/true"]), "the collective of nccl-tests is unknown"),
        (ALL[0], lambda one: one["results"][0].pop("size"), "has no size"),
        (ALL[0], lambda one: one["results"][0]["in_place"].update(bus_bw="nan"), "no number for bus_bw"),
        (ALL[0], lambda one: one["results"][0].update(in_place=7), "no number for bus_bw"),
        (ALL[2], lambda one: one["nvbandwidth"].update(error="no device"), "ended with an error: no device"),
        (ALL[2], lambda one: one["nvbandwidth"].update(testcases=[]), "ran no test"),
        (ALL[2], lambda one: one["nvbandwidth"]["testcases"][0].update(status="Error"), "ended as 'Error'"),
        (
            ALL[2],
            lambda one: one["nvbandwidth"]["testcases"][0].update(status="Running"),
            "ended as 'Running'",
        ),
        (
            ALL[2],
            lambda one: one["nvbandwidth"]["testcases"][0]["bandwidth_matrix"][0].append("x"),
            "not a number",
        ),
        (ALL[2], lambda one: one["nvbandwidth"]["testcases"][0].pop("bandwidth_matrix"), "has no matrix"),
    ],
)
def test_what_cannot_be_believed_is_refused_in_one_line(
    name: str, change: Callable[[Any], object], says: str
) -> None:
    with pytest.raises(DocumentError) as raised:
        tool_document(changed(name, change), "f")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "foreign", [[], "text", {}, {"probe": "collectives"}, {"nvbandwidth": "text"}, {"args": []}]
)
def test_foreign_json_is_no_tools(foreign: Any) -> None:
    assert tool_document(foreign, "f") is None


@given(st.sampled_from(ALL), st.data())
def test_a_file_cut_anywhere_is_refused(name: str, cut: st.DataObject) -> None:
    text = (TOOLS / name).read_text(encoding="utf-8").rstrip()
    short = text[: cut.draw(st.integers(min_value=1, max_value=len(text) - 1))]
    with pytest.raises(DocumentError):
        tool_document(parse_json(short, "f"), "f")


ODD: list[Any] = [
    *(None, True, -1, 0, 1.5, 1e308, -1e308, 10**400, [], {}, [[]], {"a": 1}),
    *("", "nan", "-inf", "1e999", "9" * 5000, "\udcff", "x" * 100),
]


def places(node: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value below a node is."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*here, key)
        yield from places(value, (*here, key))


@pytest.mark.parametrize("name", ALL)
def test_a_tools_result_with_any_one_value_replaced_or_gone_is_read_or_refused_in_one_line(
    tmp_path: Path, name: str
) -> None:
    # All odd values at every place of a kind once: a place's kind is its path without its indices.
    kinds = {tuple(key for key in place if isinstance(key, str)): place for place in places(data(name))}
    for place in kinds.values():
        for odd in [*ODD, ...]:
            spoiled = data(name)
            holder = functools.reduce(lambda node, key: node[key], place[:-1], spoiled)
            if odd is ...:
                del holder[place[-1]]
            else:
                holder[place[-1]] = odd
            path = tmp_path / "result.json"
            path.write_text(json.dumps(spoiled), encoding="utf-8")
            assert is_read_or_refused(path), (place, odd)


def is_read_or_refused(path: Path) -> bool:
    try:
        document = read_document(path)
    except DocumentError as error:
        return "\n" not in str(error)
    return document is None or document.model_dump_json() != ""
