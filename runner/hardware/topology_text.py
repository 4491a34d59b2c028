"""Reads the text of `nvidia-smi topo -m`, for example one pasted into a ticket.

It does not guess: an unknown cell between two GPUs is an error that names its line. Columns of NICs are not read: wide
outputs have no space between them (`NODENODE`, `NIC11NIC12`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.base.errors import InputError
from runner.base.pasted import pasted
from runner.hardware.topology import GpuPair, GpuWiring, Topology

_CELL = re.compile(r"X|NV\d{1,4}|PIX|PXB|PHB|NODE|SYS|SOC")
_CELLS = re.compile(rf"(?:{_CELL.pattern})+")
# Cells of `topo -p2p`, the status of peer access.
_P2P_CELL = re.compile(r"OK|CNS|GNS|TNS|NS|DR|U")
_GPU = re.compile(r"GPU(\d{1,4})")
# Columns after the matrix that drivers have added over the years; each holds one word.
_TRAILING = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")
_NUMA = "NUMA Affinity"
# What they hold: `0-55,112-167`, `0`, `N/A`.
_AFTER_THE_MATRIX = re.compile(r"[0-9,-]+|N/A")
_LEGEND = re.compile(r"\s*Legend\b")
# Where a line begins behind what a launcher or a ticket put before it: `0: `, `[1,0]<stdout>:`, `> `.
_BEHIND_PREFIX = re.compile(r"GPU\d{1,4}(?!\S)|Legend\b|(?<!\S)\S{1,5}\s+=\s")
_WHOLE = "paste the whole output of nvidia-smi topo -m"
_PEER_ACCESS = (
    "the text is the status of peer access, from nvidia-smi topo -p2p; paste that of nvidia-smi topo -m"
)
_PCIE_ONLY = (
    "the text is from nvidia-smi topo -mp, which does not show NVLink; paste the output of nvidia-smi topo -m"
)


@dataclass(frozen=True)
class _Matrix:
    """One matrix of a text: the line of its header, its GPUs by column, its columns after the matrix, its end."""

    at: int
    gpus: tuple[int, ...]
    trailing: tuple[str, ...]
    end: int


def parse_topology(text: str) -> Topology:
    """Read the matrix of GPU pairs from `nvidia-smi topo -m`.

    A matrix of `topo -p2p` in the same text is passed over. NIC rows and columns are not read: GPU–NIC cells are PCIe
    paths on a healthy node too.

    Raises:
        InputError: no GPU header, a row or a header that is cut off, a row that is missing, an unknown cell, a matrix
            that is not symmetric, several matrices that differ, or the output of `topo -mp` or `topo -p2p` alone.
    """
    lines = [line.rstrip() for line in pasted(text).split("\n")]
    if not any(map(_is_header, lines)):
        # Cells of a table in Markdown have bars between them.
        lines = [_behind_prefix(line.replace("|", " ")) for line in lines]
    first, *others = (_read(lines, matrix) for matrix in _wanted(lines))
    if any(other.pairs != first.pairs for other in others):
        raise InputError("the text has several matrices that differ; give the output of one node")
    return first


def _behind_prefix(line: str) -> str:
    found = _BEHIND_PREFIX.search(line)
    return line[found.start() :] if found else line


def _read(lines: Sequence[str], matrix: _Matrix) -> Topology:
    rows: dict[int, list[str]] = {}
    nodes: dict[int, int | None] = {}
    for number, line in enumerate(lines[matrix.at + 1 : matrix.end], start=matrix.at + 2):
        words = line.split()
        match = _GPU.fullmatch(words[0]) if words else None
        if match is None:
            continue
        gpu, cells = int(match[1]), _cells(words[1:], len(matrix.gpus), number)
        if gpu not in matrix.gpus:
            raise InputError(
                f"line {number}: the header has no column for GPU{gpu}; paste the whole header line"
            )
        if rows.setdefault(gpu, cells) != cells:
            raise InputError(f"line {number}: a second row for GPU{gpu} differs; give the output of one node")
        nodes[gpu] = _numa_node(words[1:], matrix.trailing)
    columns = {gpu: place for place, gpu in enumerate(matrix.gpus)}
    missing = sorted(set(columns) - set(rows))
    if missing:
        raise InputError(f"the matrix has no row for GPU{missing[0]}; {_WHOLE}")
    pairs = tuple(_pair(rows, columns, a, b) for a in sorted(columns) for b in sorted(columns) if a < b)
    gpus = tuple(GpuWiring(index, numa_node=nodes[index]) for index in sorted(columns))
    return Topology("text", gpus, pairs)


def _wanted(lines: Sequence[str]) -> list[_Matrix]:
    """The matrices that show all connections."""
    headers = [at for at, line in enumerate(lines) if _is_header(line)]
    if not headers:
        raise InputError(f"no header line with GPU0; {_WHOLE}, including its first line")
    found, others = [], []
    for before, at, after in zip([0, *headers], headers, [*headers[1:], len(lines)], strict=False):
        legend = (at + place for place, line in enumerate(lines[at:after]) if _LEGEND.match(line))
        matrix = _matrix(lines[at], at, next(legend, after))
        cells = _words(lines, matrix)
        if cells and all(_P2P_CELL.fullmatch(word) for word in cells):
            others.append(_PEER_ACCESS)
        elif _is_pcie_only(lines[before:at], lines[matrix.end : after], cells):
            others.append(_PCIE_ONLY)
        else:
            found.append(matrix)
    if not found:
        raise InputError(others[0])
    # A sentence may begin with the name of a GPU.
    return [matrix for matrix in found if _words(lines, matrix)] or found[:1]


def _is_header(line: str) -> bool:
    words = line.split()
    if not words or not _GPU.match(words[0]):
        return False
    return len(words) == 1 or not (_CELLS.fullmatch(words[1]) or _P2P_CELL.fullmatch(words[1]))


def _matrix(header: str, at: int, end: int) -> _Matrix:
    joined = " ".join(header.split())
    # GPUs come first; in a wide output the last one may have a NIC right behind it.
    names = re.match(rf"(?:\s*{_GPU.pattern})+", joined)
    gpus = tuple(int(number) for number in _GPU.findall(names[0] if names else ""))
    return _Matrix(at, gpus, tuple(name for name in _TRAILING if name in joined), end)


def _words(lines: Sequence[str], matrix: _Matrix) -> list[str]:
    """The words of the GPU rows, without names and `X`, as far as they may be cells."""
    rows = (line.split() for line in lines[matrix.at + 1 : matrix.end])
    cells = (word for row in rows if row and _GPU.fullmatch(row[0]) for word in row[1 : 1 + len(matrix.gpus)])
    return [word for word in cells if word != "X"]


def _is_pcie_only(before: Sequence[str], after: Sequence[str], cells: Sequence[str]) -> bool:
    """Whether the matrix leaves NVLink out. A full view explains NV#, or SOC if its driver is older than NVLink."""
    if any(word.startswith("NV") for word in cells):
        return False
    explained = {line.split()[0] for line in after if re.match(r"\s*\S+\s+=\s", line)}
    asked = any(re.search(r"\btopo\s+(-mp|--matrix_pci)\b", line) for line in before)
    return asked or ("SYS" in explained and "NV#" not in explained)


def _numa_node(words: Sequence[str], trailing: Sequence[str]) -> int | None:
    """The NUMA node of a GPU; None if the row lacks columns, or names no node or several."""
    last = words[len(words) - len(trailing) :] if len(words) > len(trailing) else ()
    if _NUMA not in trailing or not last or any(_CELLS.fullmatch(word) for word in last):
        return None
    word = last[trailing.index(_NUMA)]
    return int(word) if re.fullmatch(r"\d{1,4}", word) else None


def _cells(words: Sequence[str], count: int, line: int) -> list[str]:
    """The cells of a row's GPU columns."""
    found: list[str] = []
    for word in words:
        if len(found) >= count:
            break
        if not _CELLS.fullmatch(word):
            if _AFTER_THE_MATRIX.fullmatch(word):
                break
            raise InputError(
                f"line {line}: {word[:40]!r} is not a cell of nvidia-smi topo -m (NV18, PIX, PXB, PHB, NODE, SYS)"
            )
        found += _CELL.findall(word)
    if len(found) < count:
        raise InputError(
            f"line {line} is cut off: {len(found)} cells, the header has {count} GPUs; paste the whole line"
        )
    return found[:count]


def _pair(rows: dict[int, list[str]], columns: dict[int, int], a: int, b: int) -> GpuPair:
    there, back = rows[a][columns[b]], rows[b][columns[a]]
    if there != back or there == "X":
        raise InputError(
            f"the matrix is not symmetric: GPU{a} to GPU{b} is {there}, GPU{b} to GPU{a} is {back}; paste it again"
        )
    return GpuPair(a, b, "SYS" if there == "SOC" else there)
