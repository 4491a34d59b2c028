"""The results of a sweep for each precision before timing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.kit.precision.product import IN_FP32
from runner.kit.precision.reporting import BASELINE

if TYPE_CHECKING:
    from runner.kit.precision.arms import Arm
    from runner.kit.precision.proof import Proof

# With less than this share of the GEMM time in FP8, the mode did not run in the requested precision.
_MOSTLY = 0.5
UNKNOWN = "unknown"


@dataclass
class Swept:
    """Results by mode.

    Attributes:
        arms: those that ran.
        accuracy: signal-to-noise ratio, dB.
        proofs: GEMM kernels of FP8 modes.
        left: layers outside FP8, with the reason.
        census: number of layers of each kind.
        unavailable: why a mode did not run.
        untimed: the replacement of the FP8 GEMM if only accuracy is measured, on a CPU whose native FP8 GEMM is not
            usable. This is not a fallback: the values are FP8, and no speed is reported.
    """

    arms: dict[str, "Arm"] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    proofs: dict[str, "Proof"] = field(default_factory=dict)
    left: dict[str, Mapping[str, str]] = field(default_factory=dict)
    census: dict[str, Mapping[str, int]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    untimed: dict[str, str] = field(default_factory=dict)

    def drop(self, mode: str, why_not: str) -> None:
        """Forget what was found of a mode that then failed."""
        of_mode: list[dict[str, Any]] = [
            self.arms,
            self.accuracy,
            self.proofs,
            self.left,
            self.census,
            self.untimed,
        ]
        for one in of_mode:
            one.pop(mode, None)
        self.unavailable[mode] = why_not

    def precision(self, mode: str) -> str:
        """The precision in which a mode's GEMMs ran, or `UNKNOWN`."""
        proof = self.proofs.get(mode)
        if proof is not None and proof.share is None:
            return UNKNOWN
        if proof is not None and proof.share is not None and proof.share < _MOSTLY:
            return BASELINE
        return IN_FP32 if mode in self.untimed else mode

    @property
    def fallback(self) -> str | None:
        """Modes that multiplied in another precision than requested; None if there are none."""
        said = [
            f"{mode}: only {proof.share:.0%} of the GEMM time was in FP8 kernels"
            for mode, proof in self.proofs.items()
            if proof.share is not None and proof.share < _MOSTLY
        ]
        return "; ".join(said) or None

    @property
    def unproved(self) -> dict[str, str]:
        """Why it is unknown in which precision a mode's GEMMs ran, by mode. That is not a fallback."""
        return {mode: proof.unknown for mode, proof in self.proofs.items() if proof.unknown is not None}
