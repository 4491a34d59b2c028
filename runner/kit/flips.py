"""A flipped bit, as a defective unit leaves one in its result: in every run of a work, or in some."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def flip_bit(tensor: "torch.Tensor", place: int, bit: int) -> None:
    """Flip one bit of one element, in place; bit 0 is the lowest of the mantissa.

    Args:
        tensor: contiguous, of elements of 2, 4 or 8 bytes.
        place: of the element, in order of memory.
        bit: below the bits of an element.
    """
    import torch

    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    size = tensor.element_size()
    bits = tensor.detach().reshape(-1).view(kinds[size])
    # The highest bit is the sign.
    mask = 1 << bit if bit < 8 * size - 1 else -(1 << bit)
    bits[place] ^= mask


class BitFlip:
    """The `spoil` of a `FixedWork` in which one result has a flipped bit.

    Args:
        item: the name of the result.
        place: of the element.
        bit: of the element.
        only: numbers of the runs that are spoiled, from 0; None for all.
    """

    def __init__(self, item: str, place: int, bit: int, only: Collection[int] | None = None) -> None:
        self._item, self._place, self._bit, self._only = item, place, bit, only
        self._run = -1

    def __call__(self, name: str, result: "torch.Tensor") -> None:
        """Spoil the result if it is its turn."""
        if name == self._item:
            self._run += 1
            if self._only is None or self._run in self._only:
                flip_bit(result, self._place % result.numel(), self._bit)
