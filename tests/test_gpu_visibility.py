from pathlib import Path

import pytest

from runner.base.errors import InputError
from runner.kit.leftovers.visibility import cpu_nodes, gpu_nodes, own_cpus, remarks

TWO_SOCKETS = [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("value", "own", "words"),
    [
        ("0", {0}, ["pins by number"]),
        ("0", {1}, ["pins by number", "GPU 0 is on NUMA node 0, a different socket from"]),
        ("4", {0, 1}, ["pins by number", "GPU 4 is on NUMA node 1, one of the sockets of"]),
        (None, {1}, ["a different socket from"]),
        (None, {0}, []),
        ("GPU-8f3a", {1}, []),
        ("9", {0}, ["pins by number"]),
    ],
)
def test_a_pin_by_number_or_across_sockets_is_remarked(
    value: str | None, own: set[int], words: list[str]
) -> None:
    found = remarks(value, TWO_SOCKETS, own, 2)
    assert len(found) == len(words)
    assert all(word in remark.does for word, remark in zip(words, found, strict=True))


@pytest.mark.parametrize(("numa", "nodes"), [([None] * 8, 2), ([0] * 8, 1)])
def test_nothing_is_said_of_sockets_that_are_unknown_or_one(numa: list[int | None], nodes: int) -> None:
    assert [remark.does for remark in remarks(None, numa, {0}, nodes)] == []


def test_a_host_without_gpus_has_nothing_to_pin() -> None:
    assert remarks("0", [], {0}, 2) == []


def test_the_nodes_of_cpus_are_read_from_the_kernels_lists(tmp_path: Path) -> None:
    for node, cpus in {0: "0-3,8", 1: "4-7\n", 2: "\n"}.items():
        folder = tmp_path / f"node{node}"
        folder.mkdir()
        (folder / "cpulist").write_text(cpus, encoding="ascii")
    assert cpu_nodes({8}, tmp_path) == ({0}, 2)
    assert cpu_nodes({3, 4}, tmp_path) == ({0, 1}, 2)
    assert cpu_nodes({0}, tmp_path / "missing") == (set(), 0)


def test_a_gpus_node_is_the_kernels_for_its_pci_address(tmp_path: Path) -> None:
    for address, node in {"0000:1b:00.0": "0\n", "0000:9B:00.0": "1\n", "0000:dd:00.0": "-1\n"}.items():
        (tmp_path / "gpus" / address).mkdir(parents=True)
        (tmp_path / "pci" / address.lower()).mkdir(parents=True)
        (tmp_path / "pci" / address.lower() / "numa_node").write_text(node, encoding="ascii")
    assert gpu_nodes(tmp_path / "gpus", tmp_path / "pci") == [0, 1, None]
    assert gpu_nodes(tmp_path / "missing", tmp_path / "pci") == []


@pytest.mark.parametrize("value", ["9" * 5000, "٣", "-1", "0x1", ""])
def test_a_pin_that_is_no_index_is_not_taken_for_one(value: str) -> None:
    assert all("GPU" not in remark.does for remark in remarks(value, TWO_SOCKETS, {0}, 2))


def test_a_list_of_cpus_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    for node, text in enumerate(("0-1\n", "nonsense", "2-x", "")):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "cpulist").write_text(text, encoding="ascii")
    assert cpu_nodes({0}, tmp_path) == ({0}, 1)


def test_the_cpus_of_a_process_that_has_ended_are_bad_input() -> None:
    with pytest.raises(InputError, match="process 4194305 has ended"):
        own_cpus(4194305)
