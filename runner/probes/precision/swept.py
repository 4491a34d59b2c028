"""What a sweep found of each precision before any of them was timed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.probes.precision.product import IN_FP32
from runner.probes.precision.reporting import BASELINE

if TYPE_CHECKING:
    from runner.probes.precision.arms import Arm
    from runner.probes.precision.proof import Proof

# Less than this share of the products' time in FP8 is not the precision that was asked for.
_MOSTLY = 0.5


@dataclass
class Swept:
    """Everything by mode.

    Attributes:
        arms: those that ran.
        accuracy: signal-to-noise ratio, dB.
        proofs: which kernels multiplied, of FP8 modes.
        left: layers outside FP8, with the reason.
        census: how many layers of each make.
        unavailable: why a mode did not run.
        untimed: what multiplied in place of FP8 where only accuracy is measured: on a CPU whose own FP8 product is no
            use. That is no fallback: the values are FP8's, which is what a CPU is asked for, and no speed is claimed.
    """

    arms: dict[str, "Arm"] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    proofs: dict[str, "Proof"] = field(default_factory=dict)
    left: dict[str, Mapping[str, str]] = field(default_factory=dict)
    census: dict[str, Mapping[str, int]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    untimed: dict[str, str] = field(default_factory=dict)

    def precision(self, mode: str) -> str:
        """What a mode's products really ran in."""
        proof = self.proofs.get(mode)
        if proof is not None and proof.share < _MOSTLY:
            return BASELINE
        return IN_FP32 if mode in self.untimed else mode

    @property
    def fallback(self) -> str | None:
        """Which modes multiplied in another precision than asked for; None where none did."""
        said = [
            f"{mode}: only {proof.share:.0%} of the products' time was in FP8 kernels"
            for mode, proof in self.proofs.items()
            if proof.share < _MOSTLY
        ]
        return "; ".join(said) or None
