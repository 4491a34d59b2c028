"""The guard's result, and how to start the caller's own model from it."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import InputError
from runner.kit.compile_guard.attempt import Attempt
from runner.kit.compile_guard.cache import merge
from runner.kit.compile_guard.figures import cache_counts
from runner.kit.compile_guard.modes import compile_in_place
from runner.kit.compile_options import Mode


class CacheMissWarning(UserWarning):
    """The caller's own model had to be compiled although the guard's child had provided its cache."""


@dataclass(frozen=True)
class WarmStart:
    """The first forward of the caller's own model.

    Attributes:
        answer: the output of the model.
        seconds: from before the cache was copied until the output was available.
        cache_hits, cache_misses: graphs found in the copied cache, and graphs compiled again.
    """

    answer: Any
    seconds: float
    cache_hits: int
    cache_misses: int


@dataclass(frozen=True)
class Guarded:
    """The guard's result.

    Attributes:
        requested: `smart`, `whole`, `per-block`, `one-thread` or `eager`.
        effective: the rung that works; None if no requested rung did.
        reason: why `effective` is not the first rung; None if it is.
        attempts: every child that was tried, in order. There is none for eager if an earlier child ran in eager before
            it compiled.
        warm: a second child in the effective mode that started from the first one's cache; None if not requested, or
            if nothing was compiled.
    """

    requested: str
    effective: Mode | None
    reason: str | None
    attempts: tuple[Attempt, ...]
    warm: Attempt | None = None

    @property
    def fallback_asked(self) -> bool:
        """Whether the caller requested a ladder, so that a lower rung is not a failure."""
        return self.requested == "smart"

    @property
    def compiled(self) -> Attempt | None:
        """The child that compiled in the effective mode; None if nothing was compiled."""
        return next((one for one in self.attempts if one.mode is self.effective), None)

    def apply(self, model: Any) -> Any:
        """Compile the caller's own model in place in the effective mode, and return it.

        First, the child's compile cache is copied into this process's cache. It is valid only for the same torch,
        Triton and device, and for a first forward in the same gradient mode (`torch.no_grad()`, unless the guard was
        called with `backward`). `start` does this and reports whether the cache was used.

        Raises:
            InputError: no rung worked.
        """
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        if self.effective is None:
            raise InputError(f"nothing to apply: {self.reason}")
        cold = self.compiled
        if cold is not None and self.effective is not Mode.EAGER:
            merge(cold.folder / "cache", Path(cache_dir()))
        compile_in_place(model, self.effective)
        return model

    def start(self, model: Any, *inputs: Any, **named: Any) -> WarmStart:
        """Apply, run the first forward, and count the hits of the copied cache.

        A graph that still had to be compiled gives a `CacheMissWarning`: that compile was not guarded.

        Raises:
            InputError: no rung worked.
        """
        import torch

        hits, misses = cache_counts()
        began = time.monotonic()
        self.apply(model)
        answer = model(*inputs, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.monotonic() - began
        hits, misses = (now - before for now, before in zip(cache_counts(), (hits, misses), strict=True))
        if misses:
            warnings.warn(
                f"{misses} graph(s) were not in the guard's cache and were compiled here without a guard: "
                "check for a different torch, device, gradient mode or shape",
                CacheMissWarning,
                stacklevel=2,
            )
        return WarmStart(answer, seconds, hits, misses)
