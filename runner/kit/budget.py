"""The time budget of a probe, and the seconds of a call.

The number of samples depends on the time that one takes, not on a fixed count alone. A slower machine then takes fewer
samples and reports that, instead of reaching its deadline without a result. The runner sets RUNBOOK_SECONDS to the time
of the step; a probe run by hand uses its default.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

VARIABLE = "RUNBOOK_SECONDS"
# Share of the step's time that is reserved for start-up, imports and writing the result.
_USABLE = 0.8


@dataclass(frozen=True)
class Budget:
    """A point in time, in seconds of `time.monotonic()`, after which no further work is started."""

    ends: float

    @property
    def left(self) -> float:
        """Seconds left; negative when exceeded."""
        return self.ends - time.monotonic()

    def has(self, seconds: float) -> bool:
        """Whether work of this length still fits."""
        return seconds <= self.left

    def times(self, seconds_each: float, at_least: int, at_most: int) -> int:
        """How often work of this length fits, between the two bounds."""
        fitting = (
            at_most if seconds_each <= 0 else math.floor(min(at_most, max(0.0, self.left) / seconds_each))
        )
        return max(at_least, fitting)


def budget(default_s: float) -> Budget:
    """A budget that starts now: the default in seconds, or less if the step has less time."""
    given = _step_seconds()
    return Budget(time.monotonic() + (default_s if given is None else min(default_s, given * _USABLE)))


def seconds_of(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, with the work that it starts on the device (`cuda` or `cpu`)."""
    wait_for(device)
    began = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - began


def wait_for(device: str) -> None:
    """Wait until the device has done its work; a CPU has at once."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _step_seconds() -> float | None:
    try:
        given = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        return None
    return given if math.isfinite(given) and given > 0 else None
