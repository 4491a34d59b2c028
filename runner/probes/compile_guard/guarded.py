"""What the guard found out, and the start of the caller's own model by it."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.probes.compile_guard.attempt import Attempt
from runner.probes.compile_guard.cache import merge
from runner.probes.compile_guard.figures import cache_counts
from runner.probes.compile_guard.modes import compile_in_place
from runner.probes.compile_guard.spec import Mode


class CacheMissWarning(UserWarning):
    """The caller's own model had to be compiled although the guard's child had handed over its cache."""


@dataclass(frozen=True)
class Start:
    """The first forward of the caller's own model.

    Attributes:
        answer: what the model answered.
        seconds: from before the cache was handed over until the answer was there.
        cache_hits, cache_misses: graphs found in the handed-over cache, and graphs compiled anew.
    """

    answer: Any
    seconds: float
    cache_hits: int
    cache_misses: int


@dataclass(frozen=True)
class Guarded:
    """What the guard found out.

    Attributes:
        requested: `smart`, `whole`, `per-block`, `one-thread` or `eager`.
        effective: the rung that works; None where none of the requested did.
        reason: why `effective` is not the first rung; None where it is.
        attempts: every child that was tried, in order. There is none for eager where an earlier child, before it
            compiled, had answered in eager.
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

    @property
    def compiled(self) -> Attempt | None:
        """The child that compiled as `effective` says; None where nothing was compiled."""
        return next((one for one in self.attempts if one.mode is self.effective), None)

    def apply(self, model: Any) -> Any:
        """Compile the caller's own model in place as the guard found it to work, and return it.

        The child's compile cache is copied into this process's own first. It serves only the same torch, Triton and
        device, and a first forward under the same gradient mode (`torch.no_grad()`, unless the guard was told
        `backward`). `start` does this and says whether the cache served.

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

    def start(self, model: Any, *inputs: Any, **named: Any) -> Start:
        """Apply, run the first forward, and count what the handed-over cache was good for.

        A graph that had to be compiled all the same is warned of (`CacheMissWarning`): that compile was not guarded.

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
                f"{misses} graph(s) were not in the cache that the guard handed over and were compiled here, "
                "unguarded: is torch, the device, the gradient mode or a shape another one?",
                CacheMissWarning,
                stacklevel=2,
            )
        return Start(answer, seconds, hits, misses)
