"""The tables that nccl-tests and nvbandwidth print, read as a step's result."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import DocumentError
from runner.record.documents import read_document
from runner.record.model import Document
from runner.record.tools import nccl_tests_text, nvbandwidth_text, text_document
from runner.record.tools.nccl_tests import NcclTestsRow
from runner.record.tools.nvbandwidth import PARTS, Matrix
from tests.test_tools import TOOLS, read, values

NCCL = (
    "nccl_tests_table.txt",
    "nccl_tests_table_two_nodes.txt",
    "nccl_tests_table_old.txt",
    "nccl_tests_table_iterations.txt",
)
TABLES = (*NCCL, "nvbandwidth_tables.txt")
BIDIRECTIONAL = "device_to_device_bidirectional_memcpy_write_ce"


def text(name: str) -> str:
    return (TOOLS / name).read_text(encoding="utf-8")


def of(content: str) -> Document:
    document = text_document(content, "f")
    assert document is not None
    return document


def test_a_table_and_the_json_of_the_same_run_give_the_same_numbers_with_the_same_labels() -> None:
    table, data = read("nccl_tests_table.txt"), read("nccl_tests_v3.json")
    assert (table.probe, table.status, table.effective) == (data.probe, data.status, data.effective)
    assert [(one.name, one.labels, one.statistic) for one in table.measurements] == [
        (one.name, one.labels, one.statistic) for one in data.measurements
    ]
    # A table has two decimals.
    assert [one.value for one in table.measurements] == pytest.approx(
        [one.value for one in data.measurements], 1e-3
    )
    assert table.details == {"nccl": 23007}


def test_a_table_of_two_nodes_under_a_launcher_with_every_operator_is_read() -> None:
    document = read("nccl_tests_table_two_nodes.txt")
    assert document.effective == {"op": "all_reduce", "ranks": 16, "checked": True}
    assert document.details == {"nccl": 22105}
    assert values(document, "bus_bandwidth", redop="max", place="in_place", type="half") == [481.07e9]
    redops = {one.labels.get("redop") for one in document.measurements if one.name == "bus_bandwidth"}
    assert redops == {"sum", "prod", "max", "min", "avg"}


def test_an_old_table_without_operator_has_deviations_and_no_wrong_elements() -> None:
    document = read("nccl_tests_table_old.txt")
    assert document.effective == {"op": "broadcast", "ranks": 4, "checked": False}
    labels = {"op": "broadcast", "bytes": 64 << 20, "ranks": 4, "type": "float", "root": 0}
    assert values(document, "bus_bandwidth", **labels, place="out_of_place") == [214.82e9]
    assert values(document, "collective_time", **labels, place="in_place") == [pytest.approx(311.9e-6)]


def test_statistics_of_iterations_and_time_stamps_are_passed_over_and_wrong_elements_are_the_symptom() -> (
    None
):
    document = read("nccl_tests_table_iterations.txt")
    assert (document.status, document.reason) == ("symptom", "alltoall: 3 wrong elements")
    assert values(document, "wrong_elements", place="out_of_place") == [3]
    assert values(document, "wrong_elements", place="in_place") == []


def test_a_failed_footer_is_the_symptom_where_elements_were_not_counted() -> None:
    document = of(text("nccl_tests_table_old.txt").replace(": 0 OK", ": 2 FAILED"))
    assert document.reason == "broadcast: nccl-tests calls results out of bounds"


def test_a_table_with_the_cpu_time_has_no_time_of_the_collective() -> None:
    document = of(text("nccl_tests_table.txt").replace("   time ", "cputime "))
    assert values(document, "collective_time") == []
    assert len(values(document, "bus_bandwidth")) == 4


def test_a_row_that_was_measured_in_place_alone_is_read() -> None:
    content = text("nccl_tests_table.txt")
    row = next(line for line in content.splitlines() if re.match(r" +1048576 ", line))
    alone = row[: row.index("-1") + 2] + " " * 32 + "    52.20   20.50   35.88       0"
    document = of(content.replace(row, alone))
    assert values(document, "bus_bandwidth", bytes=1 << 20, place="out_of_place") == []
    assert values(document, "bus_bandwidth", bytes=1 << 20, place="in_place") == [35.88e9]


def test_a_split_communicator_has_the_ranks_of_its_group() -> None:
    content = text("nccl_tests_table.txt")
    split = re.sub(r"Rank  ([4-7]) Group  0", r"Rank  \1 Group  1", content)
    assert of(split).effective["ranks"] == 4


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (NCCL[0], "# Avg bus", "# bus", "nccl-tests did not finish"),
        (NCCL[0], "#       size", "#       sizes", "its table has no header"),
        (NCCL[0], "all_reduce_perf_mpi", "a.out", "the program of nccl-tests is not named"),
        (NCCL[0], "starting: all_reduce_perf", "starting: all_gather_perf", "several programs of nccl-tests"),
        (NCCL[0], "  836.50", "", "11 cells under 13 columns"),
        (NCCL[0], "836.50", "nan", "'nan' for busbw of 8589934592 bytes, out_of_place, not a number"),
        (NCCL[0], "algbw", "bw", "lacks a column"),
        (TABLES[-1], "386.50", "many", "has the cell 'many'"),
        (TABLES[-1], "    386.50", "", "has an incomplete row"),
        (
            TABLES[-1],
            "memcpy CE GPU(row) <- GPU",
            "[CUDA_ERROR_NOT_PERMITTED] no\nmemcpy",
            "CUDA_ERROR_NOT_PERMITTED",
        ),
        (
            TABLES[-1],
            "Waived: ",
            "Running all_to_host_memcpy_ce.\nERROR: lost\n",
            "ended with an error: lost",
        ),
        (TABLES[-1], "Waived: ", "Running all_to_host_memcpy_ce.\n", "all_to_host_memcpy_ce did not finish"),
    ],
)
def test_a_table_that_cannot_be_believed_is_refused_in_one_line(
    name: str, old: str, new: str, says: str
) -> None:
    assert old in text(name)
    with pytest.raises(DocumentError) as raised:
        text_document(text(name).replace(old, new), "f")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_runs_in_one_file_are_refused() -> None:
    with pytest.raises(DocumentError, match="several runs of nccl-tests; give the output of one"):
        text_document(text(NCCL[0]) * 2, "f")


@pytest.mark.parametrize(
    "content", ["", "hello\n", "# size\n", "Running.\n", "Running a job.\n", "all_reduce_perf\n"]
)
def test_foreign_text_is_no_table(content: str) -> None:
    assert text_document(content, "f") is None


def test_nvbandwidths_tables_give_a_measurement_a_cell() -> None:
    document = read("nvbandwidth_tables.txt")
    assert (document.probe, document.status) == ("nvbandwidth", "ok")
    assert values(document, "copy_bandwidth", test="device_to_device_memcpy_read_ce", row=0, column=1) == [
        387.25e9
    ]
    assert document.details["waived"] == ["one of its tests"]
    # The latency is none of them.
    assert len(document.measurements) == 10


def test_a_bidirectional_table_and_its_json_give_the_same_numbers_with_the_same_labels() -> None:
    table = [
        one for one in read("nvbandwidth_tables.txt").measurements if one.labels["test"] == BIDIRECTIONAL
    ]
    assert table == list(read("nvbandwidth_bidirectional.json").measurements)


def test_a_table_without_sums_and_with_empty_lines_between_its_rows_is_read_whole() -> None:
    content = "".join(
        f"{line}\n\n"
        for line in text("nvbandwidth_tables.txt").splitlines()
        if not line.startswith(("SUM", "COEFF"))
    )
    assert of(content).measurements == read("nvbandwidth_tables.txt").measurements


def test_a_waived_test_that_is_named_is_named() -> None:
    document = of("Running device_to_device_memcpy_read_ce.\nWaived: \n")
    assert (document.status, document.details["waived"]) == (
        "not_applicable",
        ["device_to_device_memcpy_read_ce"],
    )
    assert of("nvbandwidth Version: v0.8\nWaived: \nWaived: \n").details["waived"] == ["2 of its tests"]


@pytest.mark.parametrize("prefix", ["    ", "0: ", "[1,0]<stdout>:", "worker-0 | "])
@pytest.mark.parametrize("name", [NCCL[0], TABLES[-1]])
def test_what_a_launcher_puts_before_each_line_changes_nothing(name: str, prefix: str) -> None:
    content = "".join(f"{prefix}{line}\n" for line in text(name).splitlines())
    assert of(content).measurements == read(name).measurements


@pytest.mark.parametrize("name", TABLES)
def test_no_host_of_a_table_is_kept(name: str) -> None:
    assert "gpu-node" in text(name)
    assert "gpu-node" not in read(name).model_dump_json()


@given(st.sampled_from(NCCL), st.data())
def test_a_table_of_nccl_tests_that_was_cut_before_its_end_is_refused(name: str, cut: st.DataObject) -> None:
    content = text(name)
    end = content.index("\n", content.index("# Avg bus bandwidth"))
    short = content[: cut.draw(st.integers(0, end))]
    if nccl_tests_text.is_nccl_tests_table(short):
        with pytest.raises(DocumentError):
            text_document(short, "f")


@given(st.data())
def test_nvbandwidths_tables_that_were_cut_give_whole_matrices_alone_or_are_refused(
    cut: st.DataObject,
) -> None:
    content = text(TABLES[-1])
    whole = list(read(TABLES[-1]).measurements)
    short = content[: cut.draw(st.integers(0, len(content)))]
    try:
        document = text_document(short, "f")
    except DocumentError:
        return
    found = list(document.measurements) if document else []
    assert found == whole[: len(found)]


@given(st.sampled_from(TABLES), st.data())
def test_a_table_with_any_one_word_replaced_is_read_or_refused(name: str, change: st.DataObject) -> None:
    content = text(name)
    word = change.draw(st.sampled_from([*re.finditer(r"\S+", content)]))
    new = change.draw(
        st.sampled_from(["", "N/A", "nan", "1e999", "9" * 5000, "-1", "#", "\u2028", "0x1f", "Running x_y."])
        | st.text()
    )
    try:
        document = text_document(content[: word.start()] + new + content[word.end() :], "f")
    except DocumentError:
        return
    assert document is None or document.model_dump_json()


# Runs as the tools print them.
CENTS = st.integers(1, 9_999_999).map(lambda number: number / 100)
LABELS = st.tuples(
    st.sampled_from(["float", "half", "int8", "bfloat16", "fp8_e4m3"]),
    st.sampled_from([None, "sum", "prod", "mulsum"]),
    st.sampled_from([None, 0, 7]),
)
ROWS = st.lists(
    st.tuples(st.integers(0, 1 << 40), LABELS, CENTS, CENTS, st.sampled_from([None, 0, 3])), min_size=1
)


@given(ROWS, st.integers(1, 16), st.booleans())
def test_every_run_of_nccl_tests_is_read_as_it_was_printed(
    rows: list[tuple[int, tuple[str, str | None, int | None], float, float, int | None]],
    ranks: int,
    stamped: bool,
) -> None:
    lines = ["# Collective test starting: reduce_perf", "# nThread 1 nGpus 1 minBytes 0"]
    lines += [
        f"#  Rank {rank:2d} Group  0 Pid    411 on host device  0 [0x1b] NVIDIA B200" for rank in range(ranks)
    ]
    half = f"  {'time':>7}  {'algbw':>6}  {'busbw':>6}  {'#wrong':>6}"
    lines += [f"# {'size':>10}  {'count':>12}  {'type':>8}  {'redop':>6}  {'root':>6}{half}{half}"]
    lines[-1] += "           timestamp" if stamped else ""
    wanted = []
    for size, labels, bandwidth, time, wrong in rows:
        kind, redop, root = labels
        lead = (
            f"{size:12d}  {size // 4:12d}  {kind:>8}  {redop or 'none':>6}  {-1 if root is None else root:6d}"
        )
        body = f"  {time:7.2f}  {bandwidth:6.2f}  {bandwidth:6.2f}  {'N/A' if wrong is None else wrong:>6}"
        lines.append(lead + body + body + (" 2026-11-01 08:00:09" if stamped else ""))
        of_row = NcclTestsRow(
            size, "out_of_place", *labels, bandwidth * 1e9, bandwidth * 1e9, time * 1e-6, (), wrong
        )
        wanted += [of_row, dataclasses.replace(of_row, place="in_place")]
    lines += ["# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 1.5 "]
    run = nccl_tests_text.read_nccl_tests_table("\n".join(lines) + "\n", "f")
    assert (run.op, run.ranks, run.failed) == ("reduce", ranks, False)
    assert list(run.rows) == wanted


SIDE = st.integers(1, 9)


@given(SIDE, st.booleans(), st.booleans(), st.data())
def test_every_matrix_of_nvbandwidth_is_read_as_it_was_printed(
    side: int, both_ways: bool, named: bool, cells: st.DataObject
) -> None:
    test = BIDIRECTIONAL if both_ways else "device_to_device_memcpy_read_sm"
    parts = PARTS if both_ways else (None,)
    lines, wanted = [f"Running {test}."], []
    for place, part in enumerate(parts):
        row = st.tuples(*[st.none() | CENTS] * side)
        rows = cells.draw(st.tuples(*[row] * side))
        wanted.append(Matrix(test, part, rows))
        said = {0: "Write1 ", 1: "Write2 ", 2: "Total "}[place] if both_ways else ""
        lines += [f"memcpy SM GPU(row) <-> GPU(column) {said}bandwidth (GB/s)"]
        lines += ["  " + "".join(f"{column:10d}" for column in range(side))]
        for number, one in enumerate(rows):
            shown = "".join(f"{'N/A':>10}" if cell is None else f"{cell:10.2f}" for cell in one)
            lines.append((f"node {number}" if named else f"{number:2d}") + shown)
        lines += ["", f"SUM {test}{'' if part is None else '_x'} 1.00", ""]
    assert list(nvbandwidth_text.read_nvbandwidth_table("\n".join(lines) + "\n", "f").matrices) == wanted


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_where_a_step_writes_its_result(name: str, tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    place.write_text(text(name), encoding="utf-8")
    assert read_document(place) == read(name)


def test_a_header_whose_columns_differ_in_place_is_refused_and_gives_no_wrong_elements() -> None:
    content = re.sub(r"(?m)^(#.*busbw  #wrong) *$", r"\1   other", text(NCCL[0]))
    with pytest.raises(DocumentError, match="other columns in place than out of place"):
        of(content)


def test_a_waived_test_and_an_error_are_seen_in_an_indented_block() -> None:
    indented = "".join(f"    {line}\n" for line in text("nvbandwidth_tables.txt").splitlines())
    assert of(indented).details["waived"] == ["one of its tests"]
    with pytest.raises(DocumentError, match="ended with an error: out of memory"):
        of(indented.replace("    Waived:", "    ERROR: out of memory"))
