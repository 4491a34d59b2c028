"""The compile mode that works for each precision, found in child processes that can be killed."""

from collections.abc import Mapping
from dataclasses import dataclass

from runner.probes.compile_guard import Guarded, safe_compile
from runner.probes.contract import say
from runner.probes.precision.arms import build_for_guard
from runner.probes.precision.choice import Work

EAGER = "eager"
# Rounding to E4M3 the other way changes a number by an eighth; to bf16, by a 256th.
_TOLERANCE = {"fp8": 0.25, "fp8_te": 0.25}
_TOLERANCE_16_BITS = 5e-2


@dataclass(frozen=True)
class Compiled:
    """The guard's result for each mode; empty if every mode runs in eager as requested."""

    requested: str
    guarded: Mapping[str, Guarded]

    def rung(self, mode: str) -> str | None:
        """The rung that works for a mode; None if none does."""
        if mode not in self.guarded:
            return EAGER
        effective = self.guarded[mode].effective
        return None if effective is None else str(effective)

    def why_not(self, mode: str) -> str | None:
        """Why a mode cannot run as requested; None if it can."""
        found = self.guarded.get(mode)
        return found.reason if found is not None and found.effective is None else None

    @property
    def fallback_reason(self) -> str | None:
        """Why some mode runs on a lower rung than requested; None if none does."""
        lower = [
            f"{mode}: {one.reason}" for mode, one in self.guarded.items() if one.effective and one.reason
        ]
        return "; ".join(lower) or None

    @property
    def fallback_asked(self) -> bool:
        return self.fallback_reason is not None and all(one.fallback_asked for one in self.guarded.values())


def find_rungs(
    asked: str | None, modes: list[str], work: Work, scales: str | None, deadline_s: float
) -> Compiled:
    """Try each mode's model on the ladder, one after the other, before any of them is built in this process.

    Args:
        asked: a ladder's name; None for `smart` on a GPU, and for `eager` on a CPU, where compiling takes longer than
            it saves.
        modes: those that can run on this host.
        work: the model and its tokens.
        scales: path of calibrated scales, for `fp8`.
        deadline_s: seconds for each mode.
    """
    requested = asked or ("smart" if work.device == "cuda" else EAGER)
    guarded: dict[str, Guarded] = {}
    if requested != EAGER:
        for mode in modes:
            say(f"{mode}: looking for a compile mode that works")
            guarded[mode] = safe_compile(
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
                deadline_s=deadline_s,
                tolerance=_TOLERANCE.get(mode, _TOLERANCE_16_BITS),
                report=say,
            )
    return Compiled(requested, guarded)
