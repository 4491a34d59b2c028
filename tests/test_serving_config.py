import contextlib
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.kit.leftovers.serving_config import ShardSize, parallel_sizes, read_sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: m\ntensor-parallel-size: 8\n", [ShardSize(2, "tensor-parallel-size", 8)]),
        ('{"engine": {"tp_size": 4}}', [ShardSize(1, "tp_size", 4)]),
        (
            "args:\n  - --model\n  - m\n  - --tensor-parallel-size\n  - '8'\n",
            [ShardSize(5, "--tensor-parallel-size", 8)],
        ),
        ("args: [--tp-size=2, --port=8000]\n", [ShardSize(1, "--tp-size", 2)]),
        ("command: serve m --num-shard 2 --port 80\n", [ShardSize(1, "--num-shard", 2)]),
        ("a: 1\n---\npipeline_parallel_size: 2\n", [ShardSize(3, "pipeline_parallel_size", 2)]),
        ("tensor-parallel-size: 1\n", []),
        ("tensor-parallel-size: auto\ntp: {a: 8}\n", []),
        ("port: 8\nsharding: 8\n", []),
        ("", []),
    ],
)
def test_sizes_above_one_are_found_with_their_line(text: str, expected: list[ShardSize]) -> None:
    assert parallel_sizes(text) == expected


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert all(size.value > 1 for size in parallel_sizes(text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*serve.yaml: no such file"):
        read_sizes(tmp_path / "serve.yaml")


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("a: 1\nb: [1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"serve.yaml: line 3: neither YAML nor JSON"):
        read_sizes(path)


BOMB = "a: &a [tp_size, 8]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in itertools.pairwise("abcdefghijklm")
)


def test_aliases_are_followed_once_however_they_loop_or_multiply() -> None:
    assert parallel_sizes("a: &a\n  tp: 4\n  again: *a\n") == [ShardSize(2, "tp", 4)]
    assert parallel_sizes("n: &n 8\ntp_size: *n\n") == [ShardSize(1, "tp_size", 8)]
    assert parallel_sizes(BOMB + "tp: 2\n") == [ShardSize(14, "tp", 2)]


@pytest.mark.parametrize(
    "text", ["[" * 20_000, '"\\UFFFFFFFF"', f"%YAML {'9' * 5000}.1\n---\na: 1\n", "a: 1\n\0", "a: b: c"]
)
def test_text_that_breaks_the_reader_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parallel_sizes(text)
    assert "\n" not in str(refused.value)


def test_what_is_no_file_of_that_kind_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    for name, said in (
        ("pipe", "not a regular file"),
        (".", "not a regular file"),
        ("large", "larger than 1MiB"),
    ):
        with pytest.raises(InputError, match=said):
            read_sizes(tmp_path / name)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_bytes(b"\xef\xbb\xbftp: 8\n")
    assert read_sizes(tmp_path / "serve.yaml") == [ShardSize(1, "tp", 8)]
