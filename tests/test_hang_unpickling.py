"""Pickles of others build containers, strings and numbers within limits, and nothing else happens."""

import builtins
import collections
import os
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.hang import unpickling
from runner.hang.plain_json import read_json
from runner.hang.unpickling import DEEPEST, MOST_BYTES, read_pickle

REAL = sorted((Path(__file__).parent / "dumps").glob("torch-*/*/comm_lib_trace_rank_*"))
KEYS = st.text(max_size=8) | st.integers(0, 2**20 - 1)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
)


def nested(atoms: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        atoms,
        lambda inner: (
            st.lists(inner, max_size=6)
            | st.lists(inner, max_size=6).map(tuple)
            | st.dictionaries(KEYS, inner, max_size=6)
        ),
        max_leaves=40,
    )


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as raised:
        read_pickle(data)
    said = str(raised.value)
    assert said
    assert len(said.splitlines()) == 1
    assert said.isprintable()
    assert raised.value.exit_status == 2
    return said


class Calls:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


class Plainly:
    """An object whose state a pickle sets."""


@given(nested(ATOMS))
def test_what_python_writes_in_protocol_2_is_read_as_it_was(value: Any) -> None:
    assert read_pickle(pickle.dumps(value, 2)) == value


@given(nested(ATOMS | st.binary(max_size=300)), st.sampled_from([3, 4, 5]))
def test_what_python_writes_in_later_protocols_is_read_as_it_was(value: Any, protocol: int) -> None:
    """In protocol 2, bytes are a call."""
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("path", REAL, ids=lambda path: "/".join(path.parts[-3:]))
def test_real_dumps_are_read_as_pythons_unpickler_reads_them(path: Path) -> None:
    data = path.read_bytes()
    assert read_pickle(data) == pickle.loads(data)


def test_shared_parts_stay_shared() -> None:
    frame = {"line": 3}
    value: Any = read_pickle(pickle.dumps([[frame], [frame]], 2))
    assert value[0][0] is value[1][0]


def test_a_string_that_is_not_utf_8_is_read_with_marks() -> None:
    assert read_pickle(b"\x80\x02X\x03\x00\x00\x00a\xffb.") == "a\ufffdb"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (builtins.eval, ".eval"),
        (collections.OrderedDict, "collections.OrderedDict"),
    ],
)
def test_what_would_be_called_is_named_and_never_called(
    function: Any, name: str, protocol: int, tmp_path: Path
) -> None:
    proof = tmp_path / "called"
    said = refusal(pickle.dumps([1, Calls(function, f"open({str(proof)!r}, 'w')")], protocol))
    # Protocols 0 and 1 begin with an instruction of their own.
    assert (said.startswith("asks to import ") and name in said) or protocol < 2
    assert not proof.exists()


def test_an_object_and_its_state_are_refused() -> None:
    held = Plainly()
    held.__dict__["a"] = 1
    for protocol in range(6):
        refusal(pickle.dumps(held, protocol))


# Each would be a call, a class, a look-up by id, or an object of another kind.
@pytest.mark.parametrize(
    ("data", "word"),
    {
        "inst": (b"\x80\x02(ios\nsystem\n.", "os.system"),
        "obj": (b"\x80\x02(cos\nsystem\no.", "os.system"),
        "reduce": (b"\x80\x02))R.", "REDUCE"),
        "build": (b"\x80\x02}}b.", "BUILD"),
        "newobj": (b"\x80\x02))\x81.", "NEWOBJ"),
        "persistent id": (b"\x80\x02PX\n.", "PERSID"),
        "binary persistent id": (b"\x80\x02NQ.", "BINPERSID"),
        "extension": (b"\x80\x02\x82\x01.", "EXT1"),
        "extension 4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        "buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        "byte array": (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "BYTEARRAY8"),
        "set": (b"\x80\x04\x8f.", "EMPTY_SET"),
        "text integer": (b"\x80\x02I1\n.", "INT"),
        "unknown": (b"\x80\x02\xfe.", "malformed"),
        "protocol 9": (b"\x80\x09N.", "malformed"),
        "get before put": (b"\x80\x02h\x00.", "malformed"),
        "nothing to end with": (b"\x80\x02.", "malformed"),
        "append to a string": (b"\x80\x02X\x00\x00\x00\x00Na.", "malformed"),
        "odd number of items": (b"\x80\x02}(Nu.", "malformed"),
        "items without a mark": (b"\x80\x02}u.", "malformed"),
    }.values(),
)
def test_other_instructions_are_refused(data: bytes, word: str) -> None:
    assert word in refusal(data)


def _laughs(levels: int) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = (value,) * 10
    return value


def _pairs(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value, value]
    return value


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _mutual() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["a"] = [value]
    return value


# What fills the memory or the stack of another reader, with the word of the refusal.
BOMBS = {
    "one memo index of 4 GiB": (b"\x80\x02]r\xff\xff\xff\xff", "truncated"),
    "integer of 2 GiB": (b"\x80\x02\x8b\xff\xff\xff\x7f", "LONG4"),
    "integer of 255 bytes": (b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", "integer"),
    "string of 4 GiB": (b"\x80\x02X\xff\xff\xff\xff", "truncated"),
    "string of 16 EiB": (b"\x80\x04\x8d" + b"\xff" * 8, "truncated"),
    "bytes of 16 EiB": (b"\x80\x04\x8e" + b"\xff" * 8, "truncated"),
    "frame of 16 EiB": (b"\x80\x04\x95" + b"\xff" * 8, "truncated"),
    "tuples of tuples": (pickle.dumps(_laughs(25), 2), "values"),
    "lists of lists": (pickle.dumps(_pairs(30), 2), "values"),
    "nested lists": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "nested"),
    "nested tuples": (b"\x80\x02)" + b"\x85" * 100_000 + b".", "nested"),
    "marks": (b"\x80\x02" + b"(" * 100_000, "truncated"),
    "a list in itself": (pickle.dumps(_cycle(), 2), "nested"),
    "a dict in itself": (pickle.dumps(_mutual(), 2), "nested"),
    "a tuple as key": (pickle.dumps({_laughs(5): 1}, 2), "key of type tuple"),
    "a large key": (pickle.dumps({2**61 - 1: 1}, 2), "key"),
    "a bool as key": (pickle.dumps({True: 1}, 2), "key"),
}


@pytest.fixture
def memory() -> Iterator[None]:
    """The peak of memory stays small: a limit, not an amount that the machine decides."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_and_take_no_memory(name: str) -> None:
    data, word = BOMBS[name]
    assert word in refusal(data)


def test_levels_up_to_the_limit_are_read() -> None:
    value: Any = 1
    for _ in range(DEEPEST):
        value = [value]
    assert read_pickle(pickle.dumps(value, 2)) == value
    assert "nested" in refusal(pickle.dumps([value], 2))


def test_values_up_to_the_limit_are_read_and_shared_ones_count_at_each_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = list(range(50))
    monkeypatch.setattr(unpickling, "MOST_VALUES", 500)
    assert read_pickle(pickle.dumps([shared] * 8, 2)) == [shared] * 8
    assert "500 values" in refusal(pickle.dumps([shared] * 10, 2))
    assert "500 values" in refusal(pickle.dumps(list(range(600)), 2))


def test_more_bytes_than_the_limit_are_refused_unread() -> None:
    assert "64 MiB" in refusal(b"\x80\x02N." + bytes(MOST_BYTES))


@pytest.mark.parametrize("path", REAL[::5], ids=lambda path: "/".join(path.parts[-3:]))
def test_every_truncation_is_called_one(path: Path) -> None:
    data = path.read_bytes()
    for length in range(1, len(data)):
        assert refusal(data[:length]).startswith("is truncated"), length


def value_or_one_line(read: Callable[[bytes], object], data: bytes) -> None:
    said = ""
    try:
        read(data)
    except InputError as error:
        said = str(error)
    assert said.isprintable()


@given(st.binary(max_size=300))
def test_random_bytes_give_a_value_or_one_line(data: bytes) -> None:
    value_or_one_line(read_pickle, b"\x80\x02" + data)
    value_or_one_line(read_json, data)


@given(st.sampled_from(REAL), st.data())
def test_one_changed_byte_gives_a_value_or_one_line(path: Path, data: st.DataObject) -> None:
    found = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(found) - 1))
    found[place] = data.draw(st.integers(0, 255))
    value_or_one_line(read_pickle, bytes(found))


@given(st.lists(st.sampled_from([*b"\x80\x02KNX]})(aesut\x85\x86qh\x94.\x88J\x8a\x8cG"]), max_size=60))
def test_random_programs_of_admitted_instructions_give_a_value_or_one_line(codes: list[int]) -> None:
    value_or_one_line(read_pickle, b"\x80\x02" + bytes(codes))
