"""One GPU over a watch: shares of the time, and what it did under load. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from runner.node.gpu.clocks_reading import SW_POWER_CAP, ClockFacts, GpuClocks
from runner.node.gpu.group import GpuReading

# Chosen: below it a GPU waits for its host, and its clocks may fall.
_BUSY, _BUSY_SHARE = 0.9, 0.8
# A power limit acts from about here on; the brief peaks above it do not show in the average that NVML gives.
_AT_LIMIT = 0.95
# Chosen: what happens for half of the time decides the speed.
MOST_OF_THE_TIME = 0.5
# A counter cannot run faster than the time; the driver's clock and ours differ a little.
_FASTER_THAN_TIME = 1.1
# °C.
_COOL = 85


@dataclass(frozen=True)
class ClockSeries:
    """One GPU over the watch; `shares`: of the time, by counter."""

    readings: tuple[GpuClocks, ...]
    seconds: float
    shares: Mapping[str, float]
    broken: tuple[str, ...]

    @property
    def hardware_share(self) -> float | None:
        """The larger share of hardware thermal slowdown and power brake."""
        return self._largest("hardware thermal", "power brake")

    @property
    def heat_share(self) -> float | None:
        """Share in which heat held the clocks back."""
        return self._largest("heat", "software thermal")

    def _largest(self, *names: str) -> float | None:
        return max((self.shares[name] for name in names if name in self.shares), default=None)

    @property
    def last(self) -> GpuClocks:
        """The last reading."""
        return self.readings[-1]

    @property
    def busy(self) -> tuple[GpuClocks, ...]:
        """The readings under load; empty if it was not busy for most of the watch."""
        found = tuple(one for one in self.readings if (one.utilisation or 0) >= _BUSY and one.sm is not None)
        return found if len(found) >= _BUSY_SHARE * len(self.readings) else ()

    @property
    def clock(self) -> float | None:
        """Median in MHz under load."""
        return median(one.sm for one in self.busy if one.sm is not None) if self.busy else None

    @property
    def draw(self) -> float | None:
        """Median power under load ÷ the limit."""
        known = [one.power / one.in_force for one in self.busy if one.power and one.in_force]
        return median(known) if known else None

    @property
    def bits(self) -> int:
        """Reasons that were there in at least half of the readings under load."""
        bits = [one.reasons or 0 for one in self.busy]
        return sum(
            bit
            for bit in (1 << place for place in range(16))
            if 2 * sum(bool(b & bit) for b in bits) > len(bits)
        )

    @property
    def at_limit(self) -> bool:
        """It draws what it may, and the power limit holds its clocks."""
        capped = self.shares.get("power cap", 0.0) >= MOST_OF_THE_TIME or bool(self.bits & SW_POWER_CAP)
        return capped and (self.draw is None or self.draw >= _AT_LIMIT)

    @property
    def cool_heat_share(self) -> float | None:
        """Share slowed by heat, counted between readings that both show less than 85 °C."""
        if "heat" not in self.shares:
            return None
        total = 0
        for before, after in pairwise(self.readings):
            if before.temperature is None or after.temperature is None:
                return None
            if max(before.temperature, after.temperature) < _COOL:
                total += after.counters.get("heat", 0) - before.counters.get("heat", 0)
        return min(1.0, max(0.0, total / (self.seconds * 1e9)))

    @property
    def drift(self) -> float | None:
        """Median clock in the last fifth of the readings under load ÷ that in the first fifth."""
        clocks = [one.sm for one in self.busy if one.sm is not None]
        fifth = len(clocks) // 5
        return median(clocks[-fifth:]) / median(clocks[:fifth]) if fifth and median(clocks[:fifth]) else None


def clock_series(readings: Sequence[GpuReading[ClockFacts]], place: int) -> ClockSeries:
    """The series of the GPU at this place in the facts."""
    gpus = tuple(one.facts.gpus[place] for one in readings)
    seconds = gpus[-1].counted_at - gpus[0].counted_at
    shares, broken = {}, []
    for name, after in gpus[-1].counters.items():
        before = gpus[0].counters.get(name)
        share = None if before is None or seconds <= 0 else (after - before) / (seconds * 1e9)
        if share is None or not 0 <= share <= _FASTER_THAN_TIME:
            broken.append(name)
        else:
            shares[name] = min(share, 1.0)
    return ClockSeries(gpus, seconds, shares, tuple(broken))
