"""The ladder: whole model, one block at a time, one compile thread, eager."""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.base.errors import InputError
from runner.kit.compile_guard import budget
from runner.kit.compile_guard.agreement import Peers, peers
from runner.kit.compile_guard.attempt import Attempt, attempt
from runner.kit.compile_guard.guarded import Guarded
from runner.kit.compile_guard.spec import Builder, Spec, builder_name
from runner.kit.compile_guard.watch import TimeFor
from runner.kit.compile_options import LADDERS, Mode, Stall

# Compilers fuse and reorder sums, so outputs differ by rounding: a few thousand ulps of the output's type.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}


def safe_compile(
    build: Builder,
    arguments: Mapping[str, Any] | None = None,
    *,
    mode: str = "smart",
    deadline_s: float = 900.0,
    folder: Path | None = None,
    tolerance: float = TOLERANCE["float32"],
    backward: bool = False,
    memory_bytes: int | None = None,
    stall: Stall | None = None,
    start_from: Path | None = None,
    warm_start: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Guarded:
    """Find the compile mode that works for a model, in child processes that can be killed.

    Each rung is tried in a new child: it builds the model, runs it in eager, compiles it, runs it again, and compares
    the two outputs. Below the whole model, the child builds only the repeated blocks, with random weights, so no second
    copy of the model is needed. Under torchrun, every rank calls this; a rung is used only if it worked on all of them.

    Args:
        build: a top-level function that returns `(module, inputs)`. It may not open a process group.
        arguments: its keyword arguments; JSON, because they are passed to another process.
        mode: `smart` for the ladder; `whole`, `per-block`, `one-thread` or `eager` for that mode only.
        deadline_s: seconds until the end of compiling, for all rungs together, from when the first child begins to
            compile: importing torch and starting the compile workers come before, tens of seconds with a GPU. A
            rung leaves half of the remaining time to the next ones if they could use it.
        folder: where each child's stacks, log and cache are kept; a new temporary folder when None.
        tolerance: largest allowed difference from eager, relative to eager's largest magnitude.
        backward: also run a backward pass, compile it, and compare the gradients.
        memory_bytes: address space that a child may use beyond what it has after importing torch. Not for a child that
            uses a GPU: the driver reserves far more address space than it uses.
        stall: a stall to inject into the compiler, for drills.
        start_from: a compile cache; every child starts from a copy of it. None for an empty one.
        warm_start: also start a second child, with the whole model, from the first one's cache, as a restart would.
        report: called with one line for each attempt and each result.

    Returns:
        The mode that worked, and all attempts.

    Raises:
        InputError: an unknown mode, a deadline that is not positive, or a builder that a child cannot import.
        RankError: the other ranks of this launch cannot be reached.
    """
    if mode not in LADDERS:
        raise InputError(f"unknown compile mode {mode!r}; use one of {', '.join(LADDERS)}")
    if not deadline_s > 0:
        raise InputError(f"the deadline must be above 0 s, not {deadline_s:g}")
    if memory_bytes is not None and memory_bytes <= 0:
        raise InputError(f"the memory limit must be above 0 bytes, not {memory_bytes}")
    asked = Spec(
        builder_name(build), arguments or {}, mode, stall=False, search=tuple(sys.path), backward=backward,
        memory_bytes=memory_bytes,
    )  # fmt: skip
    kept = Path(folder or tempfile.mkdtemp(prefix="compile-guard-"))
    descent = _Descent(asked, stall, kept, start_from, deadline_s, tolerance, report)
    # Eager compiles nothing, so the ranks need not agree.
    ranks = Peers() if mode == Mode.EAGER else peers()
    return descent.go(LADDERS[mode], ranks, warm_start=warm_start)


@dataclass
class _Descent:
    """One pass down the ladder. `until`: the deadline; None until a child begins to compile."""

    asked: Spec
    stall: Stall | None
    folder: Path
    start_from: Path | None
    deadline_s: float
    tolerance: float
    report: Callable[[str], None]
    until: float | None = None
    tried: list[Attempt] = field(default_factory=list)

    def go(self, rungs: tuple[Mode, ...], ranks: Peers, *, warm_start: bool) -> Guarded:
        failures: list[str] = []
        for place, rung in enumerate(rungs):
            later = sum(mode is not Mode.EAGER for mode in rungs[place + 1 :])
            failure = ranks.agree(rung, self._try(rung, later), max(0.0, self._left()))
            reason = "; ".join(failures) or None
            if failure is None:
                warm = self._warm() if warm_start and rung is not Mode.EAGER else None
                return Guarded(self.asked.mode, rung, reason, tuple(self.tried), warm)
            failures.append(f"{rung}: {failure}")
        return Guarded(self.asked.mode, None, "; ".join(failures), tuple(self.tried))

    def _try(self, rung: Mode, later: int) -> str | None:
        """Try one rung on this rank: None if it worked, else why not."""
        if rung is Mode.EAGER and any(one.answered_in_eager for one in self.tried):
            return None
        if rung is not Mode.EAGER and self.tried:
            left = self._left()
            if not budget.worth_trying(left, self.tried[-1].start_s):
                return f"not tried: only {max(0.0, left):.1f} s left"
        self.report(f"{rung}: compiling in a child process")
        alone = rung in {Mode.PER_BLOCK, Mode.ONE_THREAD}
        name = f"{len(self.tried) + 1}-{rung}"
        done = self._attempt(rung, name, later, alone=alone, start_from=self.start_from)
        self.tried.append(done)
        self.report(f"{rung}: {done.reason or 'finished'}")
        return done.reason

    def _warm(self) -> Attempt:
        """Start again, with the whole model, from the cache of the rung that worked."""
        cold = self.tried[-1]
        self.report(f"{cold.mode}: starting again from the cache")
        # The guard's deadline covers the compile; this start, which is only measured, gets a deadline of that length.
        self.until = None
        name, cache = f"{cold.folder.name}-warm", cold.folder / "cache"
        warm = self._attempt(cold.mode, name, 0, alone=False, start_from=cache)
        self.report(f"{cold.mode}, from the cache: {warm.reason or 'finished'}")
        return warm

    def _attempt(self, rung: Mode, name: str, later: int, *, alone: bool, start_from: Path | None) -> Attempt:
        stalled = self.stall is not None and self.stall.hits(rung)
        spec = replace(self.asked, mode=rung, stall=stalled, alone=alone)

        def time_to_compile(start_s: float) -> float:
            self._start_clock(time.monotonic())
            return budget.allotment(self._left(), start_s, later)

        began = time.monotonic()
        time_for = TimeFor(budget.start_limit(self._left()), time_to_compile)
        done = attempt(
            spec, self.folder / name, time_for=time_for, tolerance=self.tolerance, start_from=start_from
        )
        # The time of a child that never compiled counts in full.
        self._start_clock(began)
        return done

    def _start_clock(self, at: float) -> None:
        self.until = at + self.deadline_s if self.until is None else self.until

    def _left(self) -> float:
        return self.deadline_s if self.until is None else self.until - time.monotonic()
