"""A model of torch's caching allocator for one GPU and one stream: which blocks it splits, keeps and gives back.

The rules are those of torch 2.11's c10/cuda/CUDACachingAllocator.cpp, without options that a run here does not set.
"""

from dataclasses import dataclass
from typing import Literal

MIB = 2**20
_SMALL, _SMALL_SEGMENT, _MEDIUM, _MEDIUM_SEGMENT, _ROUND = MIB, 2 * MIB, 10 * MIB, 20 * MIB, 2 * MIB
_LEAST = 512
# Address space of an expandable segment: never full.
_SPACE = 2**50

State = Literal["used", "free", "unmapped"]


class RefusedError(Exception):
    """A request was above the limit, also after everything unused was given back."""


@dataclass(eq=False)
class Block:
    """Consecutive bytes of one segment."""

    start: int
    size: int
    state: State

    @property
    def end(self) -> int:
        return self.start + self.size


class _Segment(list[Block]):
    """The blocks of one segment, by address."""

    def __init__(self, blocks: list[Block], *, small: bool, expandable: bool) -> None:
        super().__init__(blocks)
        self.small, self.expandable = small, expandable
        self.page = _SMALL_SEGMENT if small else _MEDIUM_SEGMENT

    def cut(self, block: Block, size: int) -> None:
        """Split a block; the second part has the same state."""
        if size < block.size:
            rest = Block(block.start + size, block.size - size, block.state)
            self.insert(self.index(block) + 1, rest)
            block.size = size

    def merge(self) -> None:
        """Join neighbours that are both free or both unmapped."""
        merged: list[Block] = []
        for block in self:
            if merged and merged[-1].state == block.state != "used":
                merged[-1].size += block.size
            else:
                merged.append(block)
        self[:] = merged


class CachingAllocator:
    """`allocate` and `free` as torch does; `limit` bytes may be reserved.

    Attributes:
        allocated, reserved: bytes now.
        peak, reserved_peak: the most since `reset_peaks`.
    """

    def __init__(self, *, expandable: bool, limit: int | None = None) -> None:
        self.expandable, self.limit = expandable, limit
        self.allocated = self.reserved = self.peak = self.reserved_peak = 0
        self._segments: list[_Segment] = []
        self._at: dict[int, tuple[_Segment, Block]] = {}
        self._number = self._next_start = 0

    def reset_peaks(self) -> None:
        self.peak, self.reserved_peak = self.allocated, self.reserved

    def allocate(self, bytes_: int) -> int:
        """A number for the block.

        Raises:
            RefusedError: see above.
        """
        size = max(_LEAST, -(-bytes_ // _LEAST) * _LEAST)
        small = size <= _SMALL
        found = self._free_block(size, small) or self._new_block(size, small)
        if found is None:
            self.release()
            found = self._new_block(size, small)
        if found is None:
            raise RefusedError
        segment, block = found
        if block.size - size >= (_LEAST if small or segment.expandable else _SMALL + 1):
            segment.cut(block, size)
        block.state = "used"
        self.allocated += block.size
        self.peak, self.reserved_peak = max(self.peak, self.allocated), max(self.reserved_peak, self.reserved)
        self._number += 1
        self._at[self._number] = segment, block
        return self._number

    def free(self, number: int) -> None:
        segment, block = self._at.pop(number)
        block.state = "free"
        self.allocated -= block.size
        segment.merge()

    def release(self) -> None:
        """Give back what nothing uses: whole segments, or whole pages of expandable ones."""
        for segment in list(self._segments):
            if not segment.expandable:
                if len(segment) == 1 and segment[0].state == "free":
                    self._segments.remove(segment)
                    self.reserved -= segment[0].size
                continue
            for block in [one for one in segment if one.state == "free"]:
                first, last = (
                    -(-block.start // segment.page) * segment.page,
                    block.end // segment.page * segment.page,
                )
                if first < last:
                    segment.cut(block, first - block.start) if first > block.start else None
                    inner = next(one for one in segment if one.start == first)
                    segment.cut(inner, last - first)
                    inner.state = "unmapped"
                    self.reserved -= inner.size
            segment.merge()

    def _free_block(self, size: int, small: bool) -> tuple[_Segment, Block] | None:
        """The smallest free block that is large enough, and of those the one at the lowest address."""
        fitting = (
            (block.size, block.start, segment, block)
            for segment in self._segments
            if segment.small == small
            for block in segment
            if block.state == "free" and block.size >= size
        )
        best = min(fitting, key=lambda one: one[:2], default=None)
        return None if best is None else (best[2], best[3])

    def _new_block(self, size: int, small: bool) -> tuple[_Segment, Block] | None:
        asked = (
            _SMALL_SEGMENT if small else _MEDIUM_SEGMENT if size < _MEDIUM else -(-size // _ROUND) * _ROUND
        )
        if self.limit is not None and self.reserved + asked > self.limit:
            return None
        if self.expandable:
            return self._expanded(size, small)
        block = Block(self._next_start, asked, "free")
        self._next_start += asked
        segment = _Segment([block], small=small, expandable=False)
        self._segments.append(segment)
        self.reserved += asked
        return segment, block

    def _expanded(self, size: int, small: bool) -> tuple[_Segment, Block]:
        """Map pages at the lowest address where, with a free block before and between them, `size` bytes result."""
        segment = next((one for one in self._segments if one.expandable and one.small == small), None)
        if segment is None:
            segment = _Segment([Block(self._next_start, _SPACE, "unmapped")], small=small, expandable=True)
            self._next_start += _SPACE
            self._segments.append(segment)
        start = self._lowest(segment, size)
        while True:
            block = next(one for one in segment if one.start <= start < one.end)
            if block.state == "free" and block.size >= size:
                return segment, block
            gap = block if block.state == "unmapped" else segment[segment.index(block) + 1]
            missing = size - (block.size if block.state == "free" else 0)
            pages = min(-(-missing // segment.page) * segment.page, gap.size)
            segment.cut(gap, pages)
            gap.state = "free"
            self.reserved += pages
            segment.merge()

    @staticmethod
    def _lowest(segment: _Segment, size: int) -> int:
        for number, block in enumerate(segment):
            if block.state == "used":
                continue
            room = 0
            for one in segment[number:]:
                if one.state == "used":
                    break
                room += one.size
            if room >= size:
                return block.start
        raise AssertionError("the address space of an expandable segment is full")
