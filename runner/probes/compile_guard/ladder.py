"""The ladder: whole model, one block at a time, eager; and what the caller gets back."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.probes.compile_guard.attempt import Attempt, attempt
from runner.probes.compile_guard.cache import merge
from runner.probes.compile_guard.modes import compile_in_place
from runner.probes.compile_guard.spec import Builder, Mode, Spec, Stall, reference

LADDERS: Mapping[str, tuple[Mode, ...]] = {
    "smart": (Mode.WHOLE, Mode.PER_BLOCK, Mode.EAGER),
    "whole": (Mode.WHOLE,),
    "per-block": (Mode.PER_BLOCK,),
    "eager": (Mode.EAGER,),
}
"""Requested mode -> rungs to try, best first. Only `smart` asks for a ladder."""

# Compilers fuse and reorder sums, so answers differ by rounding: a few thousand ulps of the output's type.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}


@dataclass(frozen=True)
class Guarded:
    """What the guard found out.

    Attributes:
        requested: `smart`, `whole`, `per-block` or `eager`.
        effective: the rung that works; None where none of the requested did.
        reason: why `effective` is not the first rung; None where it is.
        attempts: every child that was tried, in order.
        warm: a second child in the effective mode that started from the first one's cache; None where none was asked
            for, or nothing was compiled.
    """

    requested: str
    effective: Mode | None
    reason: str | None
    attempts: tuple[Attempt, ...]
    warm: Attempt | None = None

    @property
    def fallback_asked(self) -> bool:
        """Whether the caller asked for a ladder, so that a lower rung is no failure."""
        return self.requested == "smart"

    def apply(self, model: Any) -> Any:
        """Compile the caller's own model in place as the guard found it to work, and return it.

        The child's compile cache is copied into this process's own first. It serves only the same torch, Triton and
        device, and a first forward under the same gradient mode (`torch.no_grad()`); `cache_counts` says whether it
        did.

        Raises:
            InputError: no rung worked.
        """
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        if self.effective is None:
            raise InputError(f"nothing to apply: {self.reason}")
        merge(self.attempts[-1].folder / "cache", Path(cache_dir()))
        compile_in_place(model, self.effective)
        return model

    @staticmethod
    def cache_counts() -> tuple[int, int]:
        """(hits, misses) of Inductor's graph cache in this process so far: read it after the first forward."""
        from torch._dynamo.utils import counters

        inductor = counters["inductor"]
        return inductor["fxgraph_cache_hit"], inductor["fxgraph_cache_miss"]


def safe_compile(
    build: Builder,
    arguments: Mapping[str, Any] | None = None,
    *,
    mode: str = "smart",
    deadline_s: float = 900.0,
    folder: Path | None = None,
    tolerance: float = TOLERANCE["float32"],
    stall: Stall | None = None,
    warm_start: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Guarded:
    """Find out, where it can be ended, how a model may be compiled.

    Each rung is tried in a fresh child: it builds the model, answers in eager, compiles, answers again, and the two
    answers are compared. The eager rung is tried too, so `effective` is a mode in which the model has answered.

    Args:
        build: a top-level function that returns `(module, inputs)`.
        arguments: its keyword arguments, in JSON: they cross into another process.
        mode: `smart` for the ladder; `whole`, `per-block` or `eager` for that one alone.
        deadline_s: seconds for each rung's compile with its first forward.
        folder: where each child's stacks, log and cache are kept; a new temporary folder when None.
        tolerance: largest allowed difference from eager, relative to eager's largest magnitude.
        stall: a stall to inject into the compiler, for drills.
        warm_start: also start a second child from the first one's cache, to see what a restart costs.
        report: is told, a line each, what is being tried and how it ended.

    Returns:
        What worked, and all that was seen on the way.

    Raises:
        InputError: an unknown mode, a deadline that is not positive, or a builder that a child cannot import.
    """
    if mode not in LADDERS:
        raise InputError(f"unknown compile mode {mode!r}; known are {', '.join(LADDERS)}")
    if not deadline_s > 0:
        raise InputError(f"the deadline must be above 0 s, not {deadline_s:g}")
    name = reference(build)
    kept = Path(folder or tempfile.mkdtemp(prefix="compile-guard-"))
    tried: list[Attempt] = []
    for number, rung in enumerate(LADDERS[mode], start=1):
        report(f"{rung}: compiling and answering in a child")
        spec = _spec(name, arguments or {}, rung, stall)
        done = attempt(spec, kept / f"{number}-{rung}", deadline_s=deadline_s, tolerance=tolerance)
        tried.append(done)
        report(f"{rung}: {done.reason or 'the model answered'}")
        if done.outcome == "finished":
            warm = None
            if warm_start and rung is not Mode.EAGER:
                again, cache = kept / f"{number}-{rung}-warm", done.folder / "cache"
                warm = attempt(spec, again, deadline_s=deadline_s, tolerance=tolerance, start_from=cache)
                report(f"{rung}, from the cache: {warm.reason or 'the model answered'}")
            return Guarded(mode, rung, _reason(tried[:-1]), tuple(tried), warm)
    return Guarded(mode, None, _reason(tried), tuple(tried))


def _spec(name: str, arguments: Mapping[str, Any], rung: Mode, stall: Stall | None) -> Spec:
    return Spec(name, arguments, rung, stall is not None and stall.hits(rung), tuple(sys.path))


def _reason(failed: list[Attempt]) -> str | None:
    return "; ".join(f"{attempt.mode}: {attempt.reason}" for attempt in failed) or None


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a probe's parser the two options that every probe that compiles has.

    `--compile-mode` is one of `LADDERS` (default `smart`); `--skip-compile` is short for `--compile-mode eager`.
    """
    parser.add_argument(
        "--compile-mode",
        choices=tuple(LADDERS),
        default="smart",
        help="smart: whole model, else one block at a time, else eager, each against the deadline (default)",
    )
    parser.add_argument(
        "--skip-compile",
        dest="compile_mode",
        action="store_const",
        const="eager",
        help="do not compile at all: the model runs in eager",
    )
