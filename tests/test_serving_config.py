import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import InputError
from runner.probes.leftovers.serving_config import Size, parallel_sizes, read_sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: m\ntensor-parallel-size: 8\n", [Size(2, "tensor-parallel-size", 8)]),
        ('{"engine": {"tp_size": 4}}', [Size(1, "tp_size", 4)]),
        (
            "args:\n  - --model\n  - m\n  - --tensor-parallel-size\n  - '8'\n",
            [Size(5, "--tensor-parallel-size", 8)],
        ),
        ("args: [--tp-size=2, --port=8000]\n", [Size(1, "--tp-size", 2)]),
        ("command: serve m --num-shard 2 --port 80\n", [Size(1, "--num-shard", 2)]),
        ("a: 1\n---\npipeline_parallel_size: 2\n", [Size(3, "pipeline_parallel_size", 2)]),
        ("tensor-parallel-size: 1\n", []),
        ("tensor-parallel-size: auto\ntp: {a: 8}\n", []),
        ("port: 8\nsharding: 8\n", []),
        ("", []),
    ],
)
def test_sizes_above_one_are_found_with_their_line(text: str, expected: list[Size]) -> None:
    assert parallel_sizes(text) == expected


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert all(size.value > 1 for size in parallel_sizes(text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*serve.yaml: No such file"):
        read_sizes(tmp_path / "serve.yaml")


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("a: 1\nb: [1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"serve.yaml: line 3: neither YAML nor JSON"):
        read_sizes(path)
