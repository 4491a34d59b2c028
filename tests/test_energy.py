"""Energy windows on counters that behave like real ones: that tick, wrap, stand still and disappear."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runner.probes.precision.energy import Counter, EnergyError, Window, rapl_counter, run_window


@dataclass
class Clock:
    """Time that only work moves on."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def one() -> None:
            self.now += seconds

        return one


@dataclass
class Ticking:
    """A counter at constant power that shows the joules of its last tick."""

    clock: Clock
    watts: float
    name: str = "ticking"
    tick_s: float = 0.1
    lost_at: float = float("inf")
    frozen_at: float = float("inf")
    reads: list[float] = field(default_factory=list)

    def read(self) -> float:
        if self.clock.now >= self.lost_at:
            raise EnergyError("gone")
        now = min(self.clock.now, self.frozen_at)
        return int(now / self.tick_s + 1e-9) * self.tick_s * self.watts


@pytest.mark.parametrize("iteration_s", [0.003, 0.04, 0.7])
def test_joules_of_an_iteration_are_power_times_time_whatever_the_ticks(iteration_s: float) -> None:
    clock = Clock(now=3.0417)
    counter: Counter = Ticking(clock, watts=650)
    window = run_window(clock.work(iteration_s), 5.0, counter, clock)
    found = window.joules_per_iteration(counter.tick_s)
    # The last tick may be one tick old: two percent of five seconds.
    assert found == pytest.approx(650 * iteration_s, rel=0.021)


def test_a_window_too_short_for_its_counter_is_refused_with_the_length_that_would_do() -> None:
    clock = Clock()
    window = run_window(clock.work(0.01), 1.0, Ticking(clock, watts=100), clock)
    with pytest.raises(EnergyError, match=r"too short .* give --window 5 or more"):
        window.joules_per_iteration(0.1)


def test_a_counter_that_stands_still_is_refused() -> None:
    clock = Clock(now=10.0)
    window = run_window(clock.work(0.01), 5.0, Ticking(clock, watts=100, frozen_at=10.0), clock)
    with pytest.raises(EnergyError, match="stood still"):
        window.joules_per_iteration(0.1)


def test_a_counter_that_stops_half_way_is_refused() -> None:
    clock = Clock(now=10.0)
    window = run_window(clock.work(0.01), 5.0, Ticking(clock, watts=100, frozen_at=12.0), clock)
    with pytest.raises(EnergyError, match="moved for only"):
        window.joules_per_iteration(0.1)


def test_a_counter_that_disappears_ends_the_window() -> None:
    clock = Clock()
    with pytest.raises(EnergyError, match="gone"):
        run_window(clock.work(0.01), 5.0, Ticking(clock, watts=100, lost_at=2.0), clock)


def test_without_a_counter_a_window_still_has_its_iterations() -> None:
    clock = Clock()
    window = run_window(clock.work(0.25), 1.0, None, clock)
    assert window == Window(iterations=4, seconds=1.0, ticks=None)
    assert run_window(clock.work(9.0), 1.0, None, clock).iterations == 2


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    for name, energy in (("intel-rapl:0", 900), ("intel-rapl:0:0", 1), ("intel-rapl:1", 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
        (tmp_path / name / "energy_uj").write_text(f"{energy}\n")
    return tmp_path


def test_rapl_adds_its_packages_and_survives_their_overflow(powercap: Path) -> None:
    counter = rapl_counter(powercap)
    assert counter.read() == 0
    (powercap / "intel-rapl:0" / "energy_uj").write_text("50\n")
    (powercap / "intel-rapl:1" / "energy_uj").write_text("300\n")
    assert counter.read() == pytest.approx(350e-6)
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(EnergyError, match="cannot be read"):
        counter.read()


def test_a_host_without_rapl_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match="shows no RAPL energy counter"):
        rapl_counter(tmp_path)
