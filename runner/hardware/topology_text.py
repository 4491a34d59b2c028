"""Reads the text of `nvidia-smi topo -m`, for example one pasted into a ticket.

It does not guess: an unknown cell is an error that names its line.
"""

import re

from runner.errors import InputError
from runner.hardware.topology import GpuWiring, Pair, Topology

_CELL = re.compile(r"X|NV\d{1,4}|PIX|PXB|PHB|NODE|SYS|SOC")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_GPU = re.compile(r"GPU(\d{1,4})")
# Columns after the matrix that drivers have added over the years; each holds one word.
_TRAILING = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")
_NUMA = "NUMA Affinity"


def parse_topology(text: str) -> Topology:
    """Read the matrix of GPU pairs from `nvidia-smi topo -m`.

    NIC rows and columns are skipped: GPU–NIC cells are PCIe paths on a healthy node too.

    Raises:
        InputError: no GPU header, a row that is cut off or missing, an unknown cell, or a matrix that is not
            symmetric.
    """
    lines = [_ESCAPES.sub("", line).rstrip() for line in text.splitlines()]
    at, devices, trailing = _header(lines)
    columns = {int(match[1]): place for place, name in enumerate(devices) if (match := _GPU.fullmatch(name))}
    rows: dict[int, list[str]] = {}
    nodes: dict[int, int | None] = {}
    for number, line in enumerate(lines[at + 1 :], start=at + 2):
        words = line.split()
        match = _GPU.fullmatch(words[0]) if words else None
        if match is None:
            continue
        rows[int(match[1])] = _cells(words[1:], len(devices), number)
        nodes[int(match[1])] = _numa_node(words[1 + len(devices) :], trailing)
    missing = sorted(set(columns) - set(rows))
    if missing:
        raise InputError(
            f"the matrix has no row for GPU{missing[0]}; paste the whole output of nvidia-smi topo -m"
        )
    pairs = tuple(_pair(rows, columns, a, b) for a in sorted(columns) for b in sorted(columns) if a < b)
    gpus = tuple(GpuWiring(index, numa_node=nodes[index]) for index in sorted(columns))
    return Topology("text", gpus, pairs)


def _header(lines: list[str]) -> tuple[int, list[str], list[str]]:
    """Line of the header, the GPUs and NICs that it names, and its columns after those."""
    for at, line in enumerate(lines):
        words = line.split()
        if words and _GPU.fullmatch(words[0]) and not (len(words) > 1 and _CELL.fullmatch(words[1])):
            joined = " ".join(words)
            trailing = [name for name in _TRAILING if f" {name}" in joined]
            end = min((joined.index(f" {name}") for name in trailing), default=len(joined))
            return at, joined[:end].split(), trailing
    raise InputError(
        "no header line with GPU0; paste the whole output of nvidia-smi topo -m, including its first line"
    )


def _numa_node(words: list[str], trailing: list[str]) -> int | None:
    """The NUMA node of a GPU; None if the row lacks columns, or names no node or several."""
    if len(words) != len(trailing) or _NUMA not in trailing:
        return None
    word = words[trailing.index(_NUMA)]
    return int(word) if re.fullmatch(r"\d{1,4}", word) else None


def _cells(words: list[str], count: int, line: int) -> list[str]:
    if len(words) < count:
        raise InputError(
            f"line {line} is cut off: {len(words)} cells, the header has {count}; paste the whole line"
        )
    for word in words[:count]:
        if not _CELL.fullmatch(word):
            raise InputError(
                f"line {line}: {word!r} is not a cell of nvidia-smi topo -m (NV18, PIX, PXB, PHB, NODE, SYS)"
            )
    return words[:count]


def _pair(rows: dict[int, list[str]], columns: dict[int, int], a: int, b: int) -> Pair:
    there, back = rows[a][columns[b]], rows[b][columns[a]]
    if there != back or there == "X":
        raise InputError(
            f"the matrix is not symmetric: GPU{a} to GPU{b} is {there}, GPU{b} to GPU{a} is {back}; paste it again"
        )
    return Pair(a, b, "SYS" if there == "SOC" else there)
