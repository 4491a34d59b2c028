"""Dumps of flight recorders: what real jobs wrote, older forms, and folders that others fill."""

import gzip
import json
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.hang.dump_names import dump_files
from runner.hang.dumps import read_dump, read_dumps, read_recording
from runner.hang.model import CallState, Recording
from tests import hand_written_dumps
from tests.test_hang_unpickling import BOMBS, Calls, value_or_one_line

DUMPS = Path(__file__).parent / "dumps"
TORCHES = sorted(path.name for path in DUMPS.glob("torch-*"))
REAL = sorted(DUMPS.glob("torch-*/*/*")) + sorted(DUMPS.glob("torch-*/handler.json"))


def called(recording: Recording | None, group: str = "0") -> list[tuple[int, str]]:
    assert recording is not None
    return [(call.seq, call.op) for call in recording.calls if call.group == group]


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(InputError) as raised:
        read()
    said = str(raised.value)
    assert said
    assert said.isprintable()
    assert raised.value.exit_status == 2
    return said


def copied(source: Path, folder: Path) -> Path:
    """A folder with the files of another, which may then be changed."""
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def reasons(folder: Path) -> list[str]:
    return [one.reason for one in read_dumps(folder)[1]]


# Real jobs


@pytest.mark.parametrize("torch", TORCHES)
def test_three_ranks_of_a_healthy_job_made_the_same_calls(torch: str) -> None:
    looks, unseen = read_dumps(DUMPS / torch / "none")
    assert [look.rank for look in looks] == [0, 1, 2]
    assert unseen == ()
    assert all(look.unseen == () and look.pid is None for look in looks)
    steps = ["all_reduce", "all_gather", "barrier"] + ["all_reduce", "all_gather"] * 3
    for look in looks:
        assert called(look.recording) == list(enumerate(steps, 1))
    pair = [(n, "all_reduce") for n in (1, 2, 3, 4)]
    assert [called(look.recording, "1") for look in looks] == [pair, [], pair]


@pytest.mark.parametrize("torch", TORCHES)
@pytest.mark.parametrize(
    ("fault", "culprit"),
    [("skip", (7, "all_reduce")), ("op", (7, "broadcast")), ("late", (6, "all_reduce"))],
)
def test_the_last_call_of_the_culprit_differs(torch: str, fault: str, culprit: tuple[int, str]) -> None:
    looks, unseen = read_dumps(DUMPS / torch / fault)
    assert unseen == ()
    assert [called(look.recording)[-1] for look in looks] == [(7, "all_gather"), culprit, (7, "all_gather")]


@pytest.mark.parametrize("torch", TORCHES)
def test_a_call_tells_its_sizes_types_backend_and_line(torch: str) -> None:
    recording = read_recording((DUMPS / torch / "skip" / "comm_lib_trace_rank_1").read_bytes())
    call = recording.calls[1]
    assert (call.op, call.backend, call.inputs, call.outputs) == ("all_gather", "gloo", ((16,),), ((3, 16),))
    assert (call.dtypes, call.state, call.point_to_point) == (("Float",), CallState.SCHEDULED, False)
    assert call.site is not None
    assert (call.site.file, call.site.function) == ("/job/train.py", "step")
    assert recording.groups["0"].description == "default_pg"
    # gloo does not declare the members.
    assert recording.groups["0"].ranks is None
    assert recording.version in {"2.9", "2.10"}


@pytest.mark.parametrize("torch", TORCHES)
def test_json_tells_the_same_as_the_pickle_without_lines(torch: str) -> None:
    pickled, _ = read_dumps(DUMPS / torch / "skip")
    written, _ = read_dumps(DUMPS / torch / "skip-json")
    for one, other in zip(pickled, written, strict=True):
        assert one.recording is not None
        assert other.recording is not None
        bare = [call.model_copy(update={"site": None}) for call in one.recording.calls]
        assert bare == list(other.recording.calls)
        assert one.recording.groups == other.recording.groups


def test_the_answer_of_a_worker_server_is_a_dump() -> None:
    recording = read_recording((DUMPS / "torch-2.13" / "handler.json").read_bytes())
    assert called(recording)[-1] == (9, "all_gather")
    assert set(recording.groups) == {"0", "1"}


def test_torchs_own_analyser_sees_the_same_operations() -> None:
    types = pytest.importorskip("torch.distributed.flight_recorder.components.types")
    for path in sorted((DUMPS / "torch-2.13").glob("*/comm_lib_trace_rank_*")):
        entries = pickle.loads(path.read_bytes())["entries"]
        ops = [types.Op(entry, {"0": {0, 1, 2}, "1": {0, 2}}, entry["process_group"][0]) for entry in entries]
        calls = read_recording(path.read_bytes()).calls
        assert [op.type for op in ops] == [call.op for call in calls]
        assert [op.state for op in ops] == [call.state for call in calls]


def test_a_recorder_without_calls_is_not_a_rank_that_is_behind(tmp_path: Path) -> None:
    folder = copied(DUMPS / "torch-2.11" / "skip", tmp_path / "dumps")
    (folder / "comm_lib_trace_rank_1").write_bytes((DUMPS / "torch-2.11" / "without-calls").read_bytes())
    looks, _ = read_dumps(folder)
    assert [look.recording is None for look in looks] == [False, True, False]
    assert "rank 1 holds no call" in looks[1].unseen[0].reason


# Older forms


@pytest.mark.parametrize("version", hand_written_dumps.VERSIONS, ids=lambda version: version.__name__)
@pytest.mark.parametrize(
    "write", [lambda dump: pickle.dumps(dump, 2), lambda dump: json.dumps(dump).encode()]
)
def test_every_form_of_the_recorder_is_read(
    version: Callable[[], Any], write: Callable[[Any], bytes]
) -> None:
    dump = version()
    content = read_dump(write(dump))
    assert content.unseen == ()
    assert content.newest_ns is not None
    recording = content.recording
    assert called(recording) == [(1, "all_reduce"), (2, "all_reduce")]
    assert [call.state for call in recording.calls] == [CallState.COMPLETED, CallState.STARTED]
    assert {call.site.line for call in recording.calls if call.site} == {41}
    assert {call.backend for call in recording.calls} == {"nccl"}
    declared = isinstance(dump, dict) and "pg_config" in dump
    assert recording.groups["0"].ranks == ((0, 1) if declared else None)


def test_frames_of_cpp_are_passed_over() -> None:
    frames = hand_written_dumps.NATIVE_FRAMES + hand_written_dumps.FRAMES
    entry = hand_written_dumps.entry(1, collective_seq_id=1, frames=frames)
    (call,) = read_recording(pickle.dumps({"version": "2.5", "entries": [entry]}, 2)).calls
    assert call.site is not None
    assert call.site.line == 41


@pytest.mark.parametrize(
    ("frames", "site"),
    [
        (["#0 all_reduce from /x/torch/distributed/a.py:9", "#1 step from /job/train.py:41"], ("step", 41)),
        ([{"name": "step", "filename": "/job/train.py"}], ("step", 0)),
        ([{"filename": "/job/train.py", "line": 5}], ("", 5)),
        ([{"name": "step"}, 7, None, "no frame", {"filename": 3}], None),
        (None, None),
        ("step", None),
    ],
)
def test_frames_in_other_forms_give_a_line_or_none(frames: Any, site: tuple[str, int] | None) -> None:
    entry = hand_written_dumps.entry(1, collective_seq_id=1, frames=frames)
    (call,) = read_recording(json.dumps({"entries": [entry]}).encode()).calls
    assert (call.site and (call.site.function, call.site.line)) == site


@pytest.mark.parametrize(
    ("ranks", "read"),
    [
        ("[0, 1, 2]", (0, 1, 2)),
        ("0,1", (0, 1)),
        ([3, 5], (3, 5)),
        ("[]", None),
        ([], None),
        (None, None),
        ("[0, x]", None),
        ("[99999999999]", None),
        ([-1], None),
    ],
)
def test_the_members_of_a_group_are_read_in_each_form(ranks: Any, read: tuple[int, ...] | None) -> None:
    dump = {"version": "2.5", "entries": [], "pg_config": {"7": {"name": "7", "desc": "tp", "ranks": ranks}}}
    group = read_recording(pickle.dumps(dump, 2)).groups["7"]
    assert (group.ranks, group.description) == (read, "tp")


def test_sends_and_receives_have_their_own_numbers() -> None:
    made = {"collective_seq_id": 4, "p2p_seq_id": 2, "is_p2p": True}
    entry = hand_written_dumps.entry(1, **made, profiling_name="nccl:send 0->1")
    (call,) = read_recording(pickle.dumps({"version": "2.5", "entries": [entry]}, 2)).calls
    assert (call.point_to_point, call.seq, call.op) == (True, 2, "send 0->1")


def test_old_numbers_that_count_sends_are_not_compared(tmp_path: Path) -> None:
    dump = hand_written_dumps.version_1_5()
    (tmp_path / "nccl_trace_rank_0").write_bytes(pickle.dumps(dump, 2))
    dump["entries"][0]["profiling_name"] = "nccl:recv 1<-0"
    (tmp_path / "nccl_trace_rank_1").write_bytes(pickle.dumps(dump, 2))
    looks, _ = read_dumps(tmp_path)
    assert [look.recording is None for look in looks] == [False, True]
    assert "do not compare" in looks[1].unseen[0].reason


def test_coalesced_operations_keep_their_common_number() -> None:
    names = ("nccl:all_gather", "nccl:all_gather", "nccl:ALLGATHER_coalesced")
    entries = [
        hand_written_dumps.entry(n, collective_seq_id=5, profiling_name=name) for n, name in enumerate(names)
    ]
    recording = read_recording(pickle.dumps({"version": "2.5", "entries": entries}, 2))
    assert [(call.seq, call.op) for call in recording.calls] == [
        (5, name.partition(":")[2]) for name in names
    ]


def test_entries_that_are_none_are_counted_and_a_newer_format_is_named() -> None:
    good = hand_written_dumps.entry(1, collective_seq_id=1)
    bad = [
        7,
        None,
        "x",
        {},
        {"profiling_name": "nccl:barrier"},
        {**good, "collective_seq_id": -1},
        {**good, "profiling_name": 3},
    ]
    content = read_dump(pickle.dumps({"version": "3.0", "entries": [*bad, good]}, 2))
    assert len(content.recording.calls) == 1
    assert [one.reason.split(" without")[0] for one in content.unseen][:1] == ["7 entries"]
    assert "3.0 is newer" in content.unseen[1].reason


def test_values_of_other_types_leave_their_field_out() -> None:
    odd = {
        "input_sizes": [[-3, None, 2**60, True, 8]],
        "output_sizes": "x",
        "input_dtypes": [4],
        "state": "lost",
    }
    entry = hand_written_dumps.entry(1, collective_seq_id=1, process_group=[], pg_id="x", **odd)
    (call,) = read_recording(pickle.dumps({"entries": (entry,)}, 2)).calls
    assert (call.inputs, call.outputs, call.dtypes) == (((0, 0, 0, 0, 8),), (), ("",))
    assert (call.state, call.group) == (CallState.SCHEDULED, "")


def test_long_and_invisible_names_are_shortened_and_written_out() -> None:
    entry = hand_written_dumps.entry(1, collective_seq_id=1, profiling_name="nccl:\x1b[2J\ud800" + "x" * 9000)
    (call,) = read_recording(json.dumps({"entries": [entry]}).encode()).calls
    assert call.op.isprintable()
    assert len(call.op) <= 2000


# Hostile and malformed files


def _bytes_of(name: str) -> bytes:
    good = (DUMPS / "torch-2.13" / "skip" / "comm_lib_trace_rank_1").read_bytes()
    text = (DUMPS / "torch-2.13" / "skip-json" / "rank1.json").read_bytes()
    return {
        "os.system": pickle.dumps(Calls(os.system, "exit 1")),
        "builtins.eval": pickle.dumps({"entries": [Calls(eval, "1")], "version": "2.5"}, 2),
        "truncated": good[: len(good) // 2],
        "truncated JSON": text[: len(text) // 2],
        "empty": b"",
        "zeros": bytes(500),
        "a number": pickle.dumps(7),
        "a string": pickle.dumps("entries"),
        "other keys": pickle.dumps({"model": {}, "optimizer": {}}),
        "entries of another type": pickle.dumps({"entries": {"a": 1}, "version": "2.5"}),
        "a stack of py-spy": json.dumps([{"pid": 1, "frames": [{"name": "f", "line": 1}]}]).encode(),
        "text": b"Traceback (most recent call last):\n",
        "gzip": gzip.compress(good),
        "zip": b"PK\x03\x04" + bytes(30),
        "JSON with NaN": text.replace(b'"op_id":1', b'"op_id":NaN', 1),
        "JSON with Infinity": b'{"entries": [-Infinity]}',
        "nested JSON": b"[" * 100_000 + b"]" * 100_000,
        "less nested JSON": b'{"entries":' + b"[" * 50 + b"]" * 50 + b"}",
        "JSON with a long number": b'{"entries": [' + b"9" * 10_000 + b"]}",
        "JSON of brackets": b'{"entries": [' + b"[]," * 2_500_000 + b"[]]}",
        "not JSON": b'{"entries" = []}',
        "UTF-16": '{"entries": []}'.encode("utf-16"),
    }[name]


HOSTILE = {
    "os.system": "asks to import posix.system",
    "builtins.eval": "asks to import __builtin__.eval",
    "truncated": "is truncated",
    "truncated JSON": "is truncated",
    "empty": "is empty",
    "zeros": "neither a pickle nor JSON",
    "a number": "no entries",
    "a string": "no entries",
    "other keys": "no entries",
    "entries of another type": "entries are a dict",
    "a stack of py-spy": "none of its entries",
    "text": "neither a pickle nor JSON",
    "gzip": "gzip",
    "zip": "zip",
    "JSON with NaN": "NaN",
    "JSON with Infinity": "-Infinity",
    "nested JSON": "nested",
    "less nested JSON": "nested",
    "JSON with a long number": "integer",
    "JSON of brackets": "values",
    "not JSON": "is not JSON (line 1",
    "UTF-16": "neither a pickle nor JSON",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_dump_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    data = _bytes_of(name)
    assert HOSTILE[name] in refusal(lambda: read_recording(data))
    # Beside good ones it is named, and the others are read.
    folder = copied(DUMPS / "torch-2.13" / "skip", tmp_path / "dumps")
    (folder / "comm_lib_trace_rank_1").write_bytes(data)
    looks, unseen = read_dumps(folder)
    assert [look.rank for look in looks] == [0, 2]
    (bad,) = unseen
    assert HOSTILE[name] in bad.reason
    assert bad.reason.startswith("the dump of rank 1, comm_lib_trace_rank_1, ")
    assert bad.reason.isprintable()
    # Alone it is bad input.
    for rank in (0, 2):
        (folder / f"comm_lib_trace_rank_{rank}").unlink()
    assert HOSTILE[name] in refusal(lambda: read_dumps(folder))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_as_a_dump(name: str, tmp_path: Path) -> None:
    (tmp_path / "fr_0").write_bytes(BOMBS[name][0])
    assert "rank 0" in refusal(lambda: read_dumps(tmp_path))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    folder = copied(DUMPS / "torch-2.13" / "skip", tmp_path / "dumps")
    os.mkfifo(folder / "fr_10")
    (folder / "fr_11").mkdir()
    (folder / "fr_12").symlink_to(folder / "comm_lib_trace_rank_0")
    (folder / "fr_13").symlink_to("/dev/zero")
    with (folder / "fr_14").open("wb") as sparse:
        sparse.truncate(5 << 30)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(os.path.relpath(folder / "fr_15"))
        looks, unseen = read_dumps(folder)
    assert [look.rank for look in looks] == [0, 1, 2]
    said = dict(
        one.reason.removeprefix("the dump of rank ").split(", fr_", 1)
        for one in unseen
        if "fr_" in one.reason
    )
    kinds = {
        "10": "a pipe",
        "11": "a folder",
        "12": "a symbolic link",
        "13": "a symbolic link",
        "14": "larger than",
        "15": "a socket",
    }
    assert {rank: kind in said[rank] for rank, kind in kinds.items()} == dict.fromkeys(kinds, True)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.write_text("x"), "is not a folder"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: (path.mkdir(), (path / "README").touch()), "no file name ends in the number of a rank"),
        (os.mkfifo, "is not a folder"),
    ],
)
def test_a_folder_without_dumps_is_bad_input(
    make: Callable[[Path], object], word: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a\nfolder"
    make(folder)
    assert word in refusal(lambda: read_dumps(folder))


@given(st.sampled_from(REAL), st.data())
def test_a_changed_byte_of_a_real_dump_gives_a_recording_or_one_line(path: Path, data: st.DataObject) -> None:
    found = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(found) - 1))
    found[place] = data.draw(st.integers(0, 255))
    value_or_one_line(read_recording, bytes(found))


@given(st.sampled_from(REAL), st.integers(0, 10_000))
def test_a_cut_of_a_real_dump_is_called_truncated_or_empty(path: Path, length: int) -> None:
    data = path.read_bytes()
    said = refusal(lambda: read_recording(data[: length % len(data)]))
    assert said.startswith(("is truncated", "is empty"))


KEYS = (
    "entries",
    "version",
    "pg_config",
    "profiling_name",
    "collective_seq_id",
    "frames",
    "process_group",
    "ranks",
)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
        max_leaves=60,
    )
)
def test_any_json_gives_a_recording_or_one_line(value: Any) -> None:
    value_or_one_line(read_recording, json.dumps(value).encode())


# Folders


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("nccl_trace_rank_13", 13),
        ("comm_lib_trace_rank_3", 3),
        ("fr_0", 0),
        ("_dump_7", 7),
        ("7", 7),
        ("trace_12.pickle", 12),
        ("rank3.json", 3),
        ("node-7_rank-4", 4),
        ("rank_5_step_100", 5),
        ("nccl_trace_rank_3.gz", 3),
        ("Rank3", 3),
        ("fr_dump_pipe_3.pipe", None),
        ("stack_rank_3.txt", None),
        ("worker_3.log", None),
        ("README", None),
        ("trace_20240101", None),
        ("trace_" + "9" * 200, None),
    ],
)
def test_the_rank_is_read_from_the_name(name: str, rank: int | None) -> None:
    assert [file.rank for file in dump_files([name])] == ([] if rank is None else [rank])


def test_missing_ranks_are_named_and_not_invented(tmp_path: Path) -> None:
    folder = copied(DUMPS / "torch-2.13" / "skip", tmp_path / "dumps")
    (folder / "comm_lib_trace_rank_1").rename(folder / "comm_lib_trace_rank_6")
    looks, unseen = read_dumps(folder)
    assert [look.rank for look in looks] == [0, 2, 6]
    assert [one.reason for one in unseen] == [
        "no dump of rank 1, 3-5: it wrote none, or its file is elsewhere"
    ]


def test_members_of_a_group_tell_which_ranks_are_missing(tmp_path: Path) -> None:
    dump = hand_written_dumps.version_2_10()
    dump["pg_config"]["0"]["ranks"] = "[0, 1, 2, 3]"
    (tmp_path / "nccl_trace_rank_0").write_bytes(pickle.dumps(dump, 2))
    looks, unseen = read_dumps(tmp_path)
    assert [(look.rank, look.world_size) for look in looks] == [(0, 4)]
    assert unseen[0].reason.startswith("no dump of rank 1-3:")


def test_of_two_dumps_of_the_same_ranks_the_newer_is_used(tmp_path: Path) -> None:
    folder = copied(DUMPS / "torch-2.13" / "none", tmp_path / "dumps")
    for path in (DUMPS / "torch-2.13" / "skip").iterdir():
        (folder / path.name.replace("comm_lib", "later")).write_bytes(path.read_bytes())
    # The time of the calls decides, whatever a copy made of the times of the files.
    for path in folder.glob("comm_lib*"):
        os.utime(path, (4_000_000_000, 4_000_000_000))
    looks, unseen = read_dumps(folder)
    assert [called(look.recording)[-1] for look in looks] == [
        (7, "all_gather"),
        (7, "all_reduce"),
        (7, "all_gather"),
    ]
    assert [one.reason for one in unseen] == [
        "3 dumps named comm_lib_trace_rank_*, of rank 0-2: not used, others of the same ranks are newer or say more"
    ]


def test_of_a_pickle_and_json_of_one_dump_the_pickle_is_used(tmp_path: Path) -> None:
    folder = copied(DUMPS / "torch-2.13" / "skip", tmp_path / "dumps")
    copied(DUMPS / "torch-2.13" / "skip-json", folder)
    looks, unseen = read_dumps(folder)
    assert all(look.recording and look.recording.calls[-1].site for look in looks)
    assert "rank*.json" in unseen[0].reason


def test_files_of_two_nodes_with_different_names_are_one_job(tmp_path: Path) -> None:
    folder = copied(DUMPS / "torch-2.13" / "skip", tmp_path / "dumps")
    (folder / "comm_lib_trace_rank_2").rename(folder / "node-b_trace_2")
    looks, unseen = read_dumps(folder)
    assert [look.rank for look in looks] == [0, 1, 2]
    assert unseen == ()


def test_an_empty_set_beside_a_real_one_is_not_the_newest(tmp_path: Path) -> None:
    folder = copied(DUMPS / "torch-2.11" / "skip", tmp_path / "dumps")
    (folder / "nccl_1").write_bytes((DUMPS / "torch-2.11" / "without-calls").read_bytes())
    looks, _ = read_dumps(folder)
    assert all(look.recording for look in looks)


def test_a_dump_of_an_earlier_job_is_not_a_rank_that_is_behind(tmp_path: Path) -> None:
    dump = hand_written_dumps.version_2_10()
    (tmp_path / "fr_0").write_bytes(pickle.dumps(dump, 2))
    for entry in dump["entries"]:
        entry["time_created_ns"] += 3 * 86_400 * 10**9
    (tmp_path / "fr_1").write_bytes(pickle.dumps(dump, 2))
    looks, unseen = read_dumps(tmp_path)
    assert [look.rank for look in looks] == [1]
    assert len(unseen) == 1
    assert "rank 0 ends more than a day before the others" in unseen[0].reason
