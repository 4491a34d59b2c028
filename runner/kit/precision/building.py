"""The models of a sweep: built, checked, compiled and compared with fp32, one mode after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.base.errors import RunbookError
from runner.kit.budget import Budget
from runner.kit.precision.arms import Arm, build_arm, reference, signal_to_noise, unavailable
from runner.kit.precision.choice import Work, sample_tokens
from runner.kit.precision.compiled import Compiled, find_rungs, within_time
from runner.kit.precision.measuring import seconds_after_compiling
from runner.kit.precision.product import fp8_product
from runner.kit.precision.proof import census, left_out, proof_of
from runner.kit.precision.reporting import BASELINE
from runner.kit.precision.scales import Scales
from runner.kit.precision.swept import Swept
from runner.kit.probe import say

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Asked:
    """Options of a sweep: precisions, a ladder's name or None, seconds for compiling each, and a file of scales."""

    modes: Sequence[str]
    compile_mode: str | None
    deadline_s: float
    scales: Path | None


def build(asked: Asked, work: Work, scales: Scales | None, whole: Budget) -> tuple[Swept, Compiled]:
    """Build every mode that can run, check its kernels, compile it, and compare its output with the reference.

    Args:
        asked: the options of the sweep.
        work: the model and its tokens.
        scales: calibrated scales for `fp8`; None for dynamic ones.
        whole: the time of the step; compiling leaves enough of it for the windows.

    Raises:
        InputError: the scales are stale.
    """
    swept = Swept()
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
    exact = reference(work.shape, work.device, tokens)
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
    swept: Swept, compiled: Compiled, mode: str, work: Work, scales: Scales | None, exact: "torch.Tensor"
) -> None:
    tokens = sample_tokens(work)
    arm = build_arm(mode, work.shape, work.device, scales)
    if arm.implementation is not None:
        _look(swept, arm, tokens)
    compiled.apply(mode, arm.module)
    if mode == "fp8" and not fp8_product(work.device).native:
        swept.untimed[mode] = fp8_product(work.device).described
    swept.accuracy[mode] = signal_to_noise(arm.forward(tokens), exact)
    swept.arms[mode] = arm


def _look(swept: Swept, arm: Arm, tokens: "torch.Tensor") -> None:
    """Check the GEMM kernels of an arm's layers; before compiling, while layers can still be distinguished."""

    def forward() -> object:
        return arm.module(tokens)

    proof = proof_of(arm.model, forward, tokens.numel(), tokens.device.type)
    swept.proofs[arm.mode] = proof
    swept.left[arm.mode] = left_out(arm.model, proof, arm.left)
    swept.census[arm.mode] = census(arm.model, forward)
