"""Time that a probe may spend: work is sized by calibration to a budget, never by a fixed count alone.

A slower machine then takes fewer samples and says so, instead of meeting its deadline with no answer. The runner
puts the time that the step has into RUNBOOK_SECONDS; a probe run by hand has only its own default.
"""

import math
import os
import time
from dataclasses import dataclass

VARIABLE = "RUNBOOK_SECONDS"
# Of the step's time, what is left for start-up, imports and writing the result down.
_USABLE = 0.8


@dataclass(frozen=True)
class Budget:
    """A point in time, in seconds of `time.monotonic()`, after which no further work is begun."""

    ends: float

    @property
    def left(self) -> float:
        """Seconds left; negative once it is overspent."""
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
    """A budget that begins now: the default in seconds, or less where the step has less time than that."""
    given = _step_seconds()
    return Budget(time.monotonic() + (default_s if given is None else min(default_s, given * _USABLE)))


def _step_seconds() -> float | None:
    try:
        given = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        return None
    return given if math.isfinite(given) and given > 0 else None
