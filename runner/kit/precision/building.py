"""The models of a sweep: built, checked, compiled and compared with fp32, one mode after the other; what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import RunbookError
from runner.kit.budget import Budget
from runner.kit.precision.arms import PrecisionArm, build_arm, fp32_reference, unavailable
from runner.kit.precision.choice import Prefill, sample_tokens
from runner.kit.precision.compiled import Compiled, find_rungs, within_time
from runner.kit.precision.linear import signal_to_noise
from runner.kit.precision.measuring import seconds_after_compiling
from runner.kit.precision.product import IN_FP32, fp8_product
from runner.kit.precision.proof import Proof, census, layers_left_out, proof_of
from runner.kit.precision.reporting import BASELINE
from runner.kit.precision.scales import Scales
from runner.kit.probe import say

if TYPE_CHECKING:
    import torch


# With less than this share of the GEMM time in FP8, the mode did not run in the requested precision.
_MOSTLY = 0.5
UNKNOWN = "unknown"


@dataclass
class SweptModes:
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

    arms: dict[str, PrecisionArm] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    proofs: dict[str, Proof] = field(default_factory=dict)
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


@dataclass(frozen=True)
class Asked:
    """Options of a sweep: precisions, a ladder's name or None, seconds for compiling each, and a file of scales."""

    modes: Sequence[str]
    compile_mode: str | None
    deadline_s: float
    scales: Path | None


def build_modes(
    asked: Asked, work: Prefill, scales: Scales | None, whole: Budget
) -> tuple[SweptModes, Compiled]:
    """Build every mode that can run, check its kernels, compile it, and compare its output with the reference.

    Args:
        asked: the options of the sweep.
        work: the model and its tokens.
        scales: calibrated scales for `fp8`; None for dynamic ones.
        whole: the time of the step; compiling leaves enough of it for the windows.

    Raises:
        InputError: the scales are stale.
    """
    swept = SweptModes()
    runnable = []
    for mode in dict.fromkeys(asked.modes):
        why_not = unavailable(mode, work.device, static=scales is not None)
        if why_not is None:
            runnable.append(mode)
        else:
            swept.unavailable[mode] = why_not
    path = str(asked.scales.resolve()) if asked.scales else None

    def left_s(modes: int) -> float:
        return whole.left - seconds_after_compiling(modes, work.device)

    if work.device == "cuda" and asked.compile_mode is None:
        spare = set(runnable) - set(within_time(runnable, left_s))
        swept.unavailable |= dict.fromkeys(spare, "left out: with it, there is no time to compile the others")
        runnable = [mode for mode in runnable if mode not in spare]
    compiled = find_rungs(asked.compile_mode, runnable, work, path, asked.deadline_s, left_s(len(runnable)))
    tokens = sample_tokens(work)
    exact = fp32_reference(work.shape, work.device, tokens)
    for mode in runnable:
        why_not = compiled.why_not(mode)
        if why_not is not None:
            swept.unavailable[mode] = why_not
            continue
        try:
            _add(swept, compiled, mode, work, scales if mode == "fp8" else None, exact)
        except RunbookError:
            raise
        except Exception as error:
            # A library's FP8 may fail on a GPU that it was not built for; the other modes are still measured.
            if work.device == "cpu" or mode == BASELINE:
                raise
            swept.drop(mode, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    for mode, why_not in swept.unavailable.items():
        say(f"{mode}: skipped, {why_not}")
    for mode, instead in swept.untimed.items():
        say(f"{mode}: accuracy only, {instead}")
    return swept, compiled


def _add(
    swept: SweptModes,
    compiled: Compiled,
    mode: str,
    work: Prefill,
    scales: Scales | None,
    exact: "torch.Tensor",
) -> None:
    tokens = sample_tokens(work)
    arm = build_arm(mode, work.shape, work.device, scales)
    if arm.implementation is not None:
        _look(swept, arm, tokens)
    compiled.apply(mode, arm.module)
    if mode == "fp8" and not fp8_product(work.device).native:
        swept.untimed[mode] = fp8_product(work.device).described
    swept.accuracy[mode] = signal_to_noise(arm.forward(tokens).double(), exact.double())
    swept.arms[mode] = arm


def _look(swept: SweptModes, arm: PrecisionArm, tokens: "torch.Tensor") -> None:
    """Check the GEMM kernels of an arm's layers; before compiling, while layers can still be distinguished."""

    def forward() -> object:
        return arm.module(tokens)

    proof = proof_of(arm.model, forward, tokens.numel(), tokens.device.type)
    swept.proofs[arm.mode] = proof
    swept.left[arm.mode] = layers_left_out(arm.model, proof, arm.left)
    swept.census[arm.mode] = census(arm.model, forward)
