"""The compile mode that works for each precision, found in child processes that can be killed."""

import contextlib
import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from runner.kit.compile_guard import Guarded, safe_compile
from runner.kit.precision.arms import build_for_guard, why_not_compiled
from runner.kit.precision.choice import Prefill
from runner.kit.probe import say

EAGER, PER_BLOCK, LADDER = "eager", "per-block", "smart"
# Rounding to E4M3 the other way changes a number by an eighth; to bf16, by a 256th.
_TOLERANCE = {"fp8": 0.25, "fp8_te": 0.25}
_TOLERANCE_16_BITS = 5e-2
# A whole model with random weights amplifies rounding from block to block: 32 blocks kept 23.1 dB in bf16 and 3.7 dB in
# FP8 (class 1xH200-141GB, torch 2.11.0, 2026-11-27). Unrelated outputs differ by about 1.4.
_BLOCKS_OF_TOLERANCE, _MOST_TOLERANCE = 8, 1.0
# Chosen for a GPU's host with 16 cores: importing torch, transformers, torchao and the compiler, and compiling a block.
# The guard's deadline does not include the start.
_START_S, _COMPILE_S = 30.0, 15.0
# Modes to measure last: the entry's bounds and claims are about FP8 relative to bf16.
_SPARE = ("fp16",)


@dataclass(frozen=True)
class Compiled:
    """The compile mode of each precision.

    Attributes:
        requested: a ladder's name.
        guarded: the guard's result for each mode; empty if every mode runs in eager as requested.
        eager: modes that were not compiled although that was requested, each with the reason.
        chosen: the ladder was chosen here, not by the caller: a mode that does not compile runs in eager.
    """

    requested: str
    guarded: Mapping[str, Guarded] = field(default_factory=dict)
    eager: Mapping[str, str] = field(default_factory=dict)
    chosen: bool = False

    def rung(self, mode: str) -> str | None:
        """The rung that works for a mode; None if none does."""
        if mode not in self.guarded:
            return EAGER if mode not in self.eager or self._may_fall_back else None
        effective = self.guarded[mode].effective
        if effective is None:
            return EAGER if self._may_fall_back else None
        return str(effective)

    def why_not(self, mode: str) -> str | None:
        """Why a mode cannot run as requested; None if it can."""
        return self._reasons.get(mode) if self.rung(mode) is None else None

    def apply(self, mode: str, module: Any) -> None:
        """Make a mode's module compile at its next forward, if it does not run in eager."""
        if self.rung(mode) not in {None, EAGER}:
            self.guarded[mode].apply(module)

    @property
    def _may_fall_back(self) -> bool:
        return self.chosen or self.requested == LADDER

    @property
    def _reasons(self) -> dict[str, str]:
        of_guard = {mode: one.reason for mode, one in self.guarded.items() if one.reason}
        return {**self.eager, **of_guard}

    @property
    def fallback_reason(self) -> str | None:
        """Why some mode runs on a lower rung than requested; None if none does."""
        lower = [f"{mode}: {why}" for mode, why in self._reasons.items() if self.rung(mode) is not None]
        return "; ".join(lower) or None

    @property
    def fallback_asked(self) -> bool:
        return self.fallback_reason is not None and self._may_fall_back


def within_time(modes: Sequence[str], left_s: Callable[[int], float]) -> tuple[str, ...]:
    """The modes that can be compiled and measured: all, or without the spare ones where that is what it takes.

    If not even the others can, all of them are measured in eager.

    Args:
        modes: those that can run on this host.
        left_s: seconds that are left for compiling, with a number of modes to measure.
    """
    needed = [mode for mode in modes if mode not in _SPARE]
    affordable = left_s(len(modes)) >= _START_S + _COMPILE_S
    fewer = needed and left_s(len(needed)) >= _START_S + _COMPILE_S
    return tuple(needed if fewer and not affordable else modes)


def find_rungs(
    asked: str | None,
    modes: Sequence[str],
    work: Prefill,
    scales: str | None,
    deadline_s: float,
    left_s: float = math.inf,
) -> Compiled:
    """Try each mode's model on the ladder, before any of them is built in this process.

    Args:
        asked: a ladder's name; None for `per-block` on a GPU, else eager, and for `eager` on a CPU, where compiling
            takes longer than it saves. Per block, one block stands for the whole model: it compiles in a fraction of
            the time, its output can be compared, and all modes can be tried at the same time.
        modes: those that can run on this host.
        work: the model and its tokens.
        scales: path of calibrated scales, for `fp8`.
        deadline_s: seconds for each mode.
        left_s: seconds for all modes. Where the mode is chosen here, or for `smart`, nothing is compiled if that takes
            longer.
    """
    requested = asked or (PER_BLOCK if work.device == "cuda" else EAGER)
    if requested == EAGER:
        return Compiled(EAGER)
    falls_back = asked is None or asked == LADDER
    if falls_back and left_s < _START_S + _COMPILE_S:
        takes = f"it takes about {_START_S + _COMPILE_S:.0f} s"
        why = f"not compiled: {max(0.0, left_s):.0f} s are left for it, and {takes}"
        return Compiled(requested, eager=dict.fromkeys(modes, why), chosen=asked is None)
    eager = {mode: reason for mode in modes if (reason := why_not_compiled(mode)) is not None}
    others = [mode for mode in modes if mode not in eager]
    until = time.monotonic() + left_s - (_START_S if falls_back else 0.0)

    def one(mode: str, sharing: int) -> Guarded:
        say(f"{mode}: looking for a compile mode that works")
        return safe_compile(
            build_for_guard,
            {
                "mode": mode,
                "model": work.shape.name,
                "device": work.device,
                "batch_size": work.batch_size,
                "tokens": work.tokens,
                "scales": scales if mode == "fp8" else None,
            },
            mode=requested,
            deadline_s=max(1.0, min(deadline_s, (until - time.monotonic()) / sharing)),
            tolerance=tolerance(mode, 1 if requested == PER_BLOCK else work.shape.layers),
            report=lambda line: say(f"{mode}: {line}"),
        )

    # A GPU's host has the cores, and a block needs little memory. Whole models are built one after the other.
    if asked is None:
        guarded = _at_once(one, others)
    else:
        guarded = {mode: one(mode, len(others) - place) for place, mode in enumerate(others)}
    return Compiled(requested, guarded, eager, chosen=asked is None)


def _at_once(one: Callable[[str, int], Guarded], modes: Sequence[str]) -> dict[str, Guarded]:
    with ThreadPoolExecutor(max(1, len(modes))) as pool:
        guarded = pool.map(lambda mode: one(mode, 1), modes)
        # The first compiled forward of this process needs it; the import takes about as long as a guard's start. That
        # a compiler cannot be imported is for the guards to say.
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("torch._inductor.compile_fx")
        return dict(zip(modes, guarded, strict=True))


def tolerance(mode: str, blocks: int) -> float:
    """Largest difference of a compiled output from eager's, relative to its largest magnitude, after some blocks."""
    of_one = _TOLERANCE.get(mode, _TOLERANCE_16_BITS)
    return min(_MOST_TOLERANCE, of_one * max(1.0, blocks / _BLOCKS_OF_TOLERANCE))
