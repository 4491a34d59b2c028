"""Distinguishes FP8 GEMMs from others by the names of their kernels. Pure.

cuBLASLt names a kernel by family, then by tile: `nvjet_sm90_qqtst_256x128_128x4_1x2_h_bz_coopA_TNT`. The family states
the types (`qqtst`: E4M3 × E4M3 → BF16, `tst`: BF16), and everything from the tile on changes with the shape, the scales
and the accumulation. So the part before the tile is compared first.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from runner.base.errors import RunbookError

_TILE = re.compile(r"_\d+x\d+")


class ProofError(RunbookError):
    """FP8 kernels cannot be distinguished from others on this device."""


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _up_to_the_tile(name: str) -> str:
    """The family of a kernel; names without a tile (CUTLASS templates, Ada's XMMA) lose their numbers instead."""
    tile = _TILE.search(name)
    return name[: tile.start()] if tile else _without_numbers(name)


RULES: Mapping[str, Callable[[str], str]] = {
    "up to the tile": _up_to_the_tile,
    "without its numbers": _without_numbers,
    "whole": lambda name: name,
}


@dataclass(frozen=True)
class Matcher:
    """Distinguishes FP8 GEMMs from others by kernel name.

    Attributes:
        fp8, other: the names of known GEMMs, reduced by `rule`; no member is in both.
        rule: one of `RULES`: the part of a name that counts.
    """

    fp8: frozenset[str]
    other: frozenset[str]
    rule: str

    def is_fp8(self, name: str) -> bool | None:
        """Whether a kernel multiplies in FP8; None if it is not a GEMM that was seen in calibration."""
        key = RULES[self.rule](name)
        if key in self.fp8:
            return True
        return False if key in self.other else None


def matcher(fp8: Collection[str], other: Collection[str]) -> Matcher:
    """The loosest rule that separates these kernel names; names in both (a reduction, a copy) are ignored.

    Raises:
        ProofError: none does.
    """
    common = set(fp8) & set(other)
    for rule, key in RULES.items():
        ours, theirs = (frozenset(map(key, set(names) - common)) for names in (fp8, other))
        if ours and theirs and not ours & theirs:
            return Matcher(ours, theirs, rule)
    if not fp8:
        raise ProofError(
            "every known FP8 GEMM failed on this device; choose a model whose sides are multiples of 16"
        )
    raise ProofError(
        f"a known FP8 GEMM and a known BF16 one ran the same kernels ({', '.join(sorted(common)) or 'none'}):"
        " this device or this torch multiplies in another type than requested"
    )
