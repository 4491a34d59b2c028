import json
import os
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import DocumentError
from runner.record.documents import MAX_DOCUMENT_BYTES, read_document
from runner.vocabulary import shared
from runner.vocabulary.model import Declaration

GOOD: dict[str, Any] = {
    "probe": "collectives",
    "method_version": 1,
    "status": "ok",
    "measurements": [
        {
            "name": "bus_bandwidth",
            "labels": {"op": "all_reduce", "bytes": 1048576},
            "value": 3e10,
            "unit": "B/s",
            "statistic": "median",
            "samples": [3e10, 31000000000, 2.9e10],
        }
    ],
}


def written(folder: Path, content: object) -> Path:
    path = folder / "result.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def changed(**changes: object) -> dict[str, Any]:
    return GOOD | {"measurements": [GOOD["measurements"][0] | changes]}


def without(key: str) -> dict[str, Any]:
    return GOOD | {"measurements": [{k: v for k, v in GOOD["measurements"][0].items() if k != key}]}


def test_a_good_document_keeps_its_numbers_and_samples(tmp_path: Path) -> None:
    document = read_document(written(tmp_path, GOOD))
    assert document is not None
    assert document.measurements[0].samples == (3e10, 3.1e10, 2.9e10)
    assert document.measurements[0].labels == {"op": "all_reduce", "bytes": 1048576}


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_file_is_no_document(tmp_path: Path, content: bytes) -> None:
    assert read_document(written(tmp_path, content)) is None


def test_no_file_is_no_document(tmp_path: Path) -> None:
    assert read_document(tmp_path / "result.json") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "not JSON"),
        ('{"probe": "collectives"', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8 (byte 0)"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "larger than 4MiB"),
        ("[" * 200_000, "nested too deeply"),
        ("[]", "contains a list"),
        ('{"details": {"x": NaN}}', "contains NaN"),
        ('{"details": {"x": -Infinity}}', "contains -Infinity"),
        ('{"details": {"x": 1e999}}', "contains 1e999"),
        (without("unit"), "measurement 1 (bus_bandwidth) lacks a unit"),
        (without("value"), "measurement 1 (bus_bandwidth) lacks value"),
        ({"probe": "collectives", "status": "ok"}, "lacks method_version"),
        (GOOD | {"probe": "collective"}, "unknown probe 'collective'; did you mean 'collectives'?"),
        (changed(name="buss_bandwidth"), "unknown metric 'buss_bandwidth'; did you mean 'bus_bandwidth'?"),
        (changed(unit="GB/s"), "has bus_bandwidth in 'GB/s'; its stored unit is 'B/s'"),
        (changed(value="3e10"), "measurement 1 (bus_bandwidth): value"),
        (changed(value=True), "measurement 1 (bus_bandwidth): value"),
        (changed(value=None), "measurement 1 (bus_bandwidth): value"),
        (changed(samples=[1, "2"]), "samples.1"),
        (changed(sample=[1]), "unknown key 'sample'; did you mean 'samples'?"),
        (GOOD | {"statuss": "ok"}, "unknown key 'statuss'; did you mean 'status'?"),
        (GOOD | {"status": "fine"}, "status"),
        (
            GOOD | {"measurements": GOOD["measurements"] * 2},
            "bus_bandwidth [bytes=1048576, op=all_reduce] twice",
        ),
        (GOOD | {"measurements": [3]}, "measurement 1"),
    ],
)
def test_each_fault_is_one_line_that_names_it(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(DocumentError) as raised:
        read_document(written(tmp_path, content))
    message = str(raised.value)
    assert says in message
    assert message.startswith("result.json")
    assert "\n" not in message


def test_a_metric_of_another_probe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.record import documents as measure  # noqa: PLC0415 - and this module reads it

    narrowed = Declaration(
        "collectives", method_version=1, summary="latency only", metrics=(shared.ALGORITHM_BANDWIDTH,)
    )
    monkeypatch.setattr(measure, "PROBES", {"collectives": narrowed})
    with pytest.raises(DocumentError, match="bus_bandwidth, which collectives does not declare"):
        read_document(written(tmp_path, GOOD))


def test_equal_names_with_different_labels_are_two_measurements(tmp_path: Path) -> None:
    measurements = [GOOD["measurements"][0], changed(labels={"bytes": 1})["measurements"][0]]
    document = read_document(written(tmp_path, GOOD | {"measurements": measurements}))
    assert document is not None
    assert len(document.measurements) == 2


def test_a_pipe_in_the_place_of_the_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "result.json")
    with pytest.raises(DocumentError, match="not a regular file"):
        read_document(tmp_path / "result.json")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(DocumentError, match="not a regular file"):
        read_document(tmp_path / "result.json")


def _written(tmp_path: Path, measurements: list[dict[str, object]], **more: object) -> Path:
    document = {"probe": "collectives", "method_version": 1, "status": "ok", "measurements": measurements}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document | more))
    return path


def _number(number: int, *samples: float) -> dict[str, object]:
    facts = {"name": "bus_bandwidth", "value": 1.0, "unit": "B/s", "statistic": "single"}
    return facts | {"labels": {"bytes": number}, "samples": samples}


@pytest.mark.parametrize(
    ("measurements", "says"),
    [
        ([_number(n) for n in range(10_000)], "at most 5000 items"),
        (
            [_number(n) for n in range(4_900)],
            r"needs \d+ bytes, but the record has only 1MiB left for results",
        ),
        ([_number(n, *[1.25] * 4_900) for n in range(14)], r"needs \d+ bytes, but the record"),
        ([_number(0, *[1.25] * 10_000)], "at most 5000 items"),
        ([_number(10**400)], "less than or equal to 9007199254740992"),
        ([_number(0) | {"value": 1e200}], r"less than or equal to 10{100}"),
        ([_number(0) | {"labels": {"a": "x" * 3_000}}], "at most 2000 characters"),
    ],
)
def test_a_document_that_no_record_can_hold_is_refused_in_one_line(
    tmp_path: Path, measurements: list[dict[str, object]], says: str
) -> None:
    with pytest.raises(DocumentError, match=says) as raised:
        read_document(_written(tmp_path, measurements))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_what_steps_before_took_of_a_record_is_gone(tmp_path: Path) -> None:
    path = _written(tmp_path, [_number(0, *[1.25] * 1_000)])
    assert read_document(path)
    with pytest.raises(DocumentError, match=r"has only 1KiB left for results; report fewer samples"):
        read_document(path, room=1_024)


@pytest.mark.parametrize(
    "details", [{"a": "x" * 200_000}, {"a": [[[[1] * 2_000] * 5] * 2]}, {"\x1b[31m\n" * 20_000: 1}]
)
def test_details_that_are_larger_in_a_record_than_here_are_left_out(tmp_path: Path, details: object) -> None:
    found = read_document(_written(tmp_path, [_number(0)], details=details))
    assert found is not None
    assert list(found.details) == ["left_out"]


def test_an_unknown_key_of_a_megabyte_is_quoted_in_part(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as raised:
        read_document(_written(tmp_path, [], **{"\n<b>" * 250_000: 1}))
    assert len(str(raised.value)) <= 2_000
    assert "\n" not in str(raised.value)


def test_a_tools_file_that_no_record_can_hold_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    case = {"name": "x" * 3_000, "status": "Passed", "bandwidth_description": "memcpy (GB/s)"}
    path.write_text(json.dumps({"nvbandwidth": {"testcases": [case | {"bandwidth_matrix": [["1.0"]]}]}}))
    with pytest.raises(DocumentError, match="exceeds the limits of a record"):
        read_document(path)


def test_a_link_to_an_endless_device_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to("/dev/zero")
    with pytest.raises(DocumentError, match="is a device"):
        read_document(tmp_path / "a.json")
