"""Energy windows on counters that behave like real ones: that tick, wrap, stand still, lose and disappear."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.precision import energy
from runner.kit.precision.counters import NVML_TICK_S, EnergyError, Sensors, rapl_counters
from runner.kit.precision.energy import EnergyWindow, Tick, Trace, poll_counters, run_window
from tests import nvml

POLL_S = 0.005


@dataclass
class Curve:
    """A counter of power W + S sin(2πt/P), as of its last tick; time is set from outside."""

    watts: float
    swing: float = 0.0
    period: float = 1.0
    tick_s: float = 0.1
    name: str = "curve"
    now: float = 0.0
    shown: Callable[[float], float] = lambda tick: tick

    def joules(self, seconds: float) -> float:
        turn = 2 * pi / self.period
        return self.watts * seconds - self.swing / turn * cos(turn * seconds)

    def read(self) -> float:
        tick = int(self.now / self.tick_s + 1e-9) * self.tick_s
        return self.joules(self.shown(tick))


def watched(
    curve: Curve, began: float, seconds: float, iteration_s: float, poll_s: float = POLL_S
) -> EnergyWindow:
    """A window of work over a curve, watched every `poll_s`, without waiting for it."""
    trace = Trace(curve)
    for number in range(int(seconds / poll_s) + 1):
        curve.now = began + number * poll_s
        trace.poll(lambda: curve.now)
    count = int(seconds / iteration_s) + 1
    return EnergyWindow(began, tuple(began + (n + 1) * iteration_s for n in range(count)), (trace,))


def exact(window: EnergyWindow, curve: Curve) -> float:
    """Joules of an iteration between the window's edges, by the curve itself."""
    first, last = window.traces[0].edges()
    done = window.done_at(last.first) - window.done_at(first.first)
    return (curve.joules(last.first) - curve.joules(first.first)) / done


@given(
    watts=st.floats(100, 1000),
    swing=st.floats(0, 0.9),
    period=st.floats(0.5, 20),
    began=st.floats(3, 4),
    iteration_s=st.floats(0.003, 1.5),
)
def test_joules_of_an_iteration_are_right_within_one_percent_in_windows_of_five_seconds(
    watts: float, swing: float, period: float, began: float, iteration_s: float
) -> None:
    curve = Curve(watts, 0.3 * swing * watts, period)
    window = watched(curve, began, 5.0, iteration_s)
    assert window.joules_per_iteration() == pytest.approx(exact(window, curve), rel=0.01)
    assert window.watts() == pytest.approx(watts, rel=0.3)


@pytest.mark.parametrize("iteration_s", [0.003, 0.04, 0.7])
def test_at_constant_power_they_are_power_times_time(iteration_s: float) -> None:
    window = watched(Curve(650), 3.0417, 5.0, iteration_s)
    assert window.joules_per_iteration() == pytest.approx(650 * iteration_s, rel=0.002)


def refused(window: EnergyWindow) -> str:
    with pytest.raises(EnergyError) as caught:
        window.joules_per_iteration()
    return str(caught.value)


def test_a_window_too_short_for_its_counter_is_refused_with_the_length_that_would_do() -> None:
    assert "too short for a counter with updates every 0.1 s; use --window 5 or more" in refused(
        watched(Curve(100), 0.0, 1.0, 0.01)
    )


@pytest.mark.parametrize(("stops", "goes_on"), [(2.0, 99.0), (3.0, 99.0), (4.0, 5.2), (6.4, 99.0)])
def test_a_counter_that_stands_still_is_refused_wherever_it_does(stops: float, goes_on: float) -> None:
    curve = Curve(100, shown=lambda tick: tick if tick < stops or tick >= goes_on else stops)
    assert "did not change" in refused(watched(curve, 2.0, 5.0, 0.01))


def test_a_short_standstill_is_refused_where_its_joules_are_lost_and_not_where_they_come_later() -> None:
    late = Curve(100, shown=lambda tick: 4.0 if 4.0 <= tick < 4.25 else tick)
    assert watched(late, 2.0, 5.0, 0.01).joules_per_iteration() == pytest.approx(1.0, rel=0.002)
    lost = Curve(100, shown=lambda tick: tick if tick < 4.0 else max(4.0, tick - 0.2))
    assert "lost joules: it did not change for 0.29 s" in refused(watched(lost, 2.0, 5.0, 0.01))


def test_a_counter_that_goes_back_is_refused() -> None:
    curve = Curve(100, shown=lambda tick: tick if tick < 4.0 else tick - 3.5)
    assert "went back from" in refused(watched(curve, 2.0, 5.0, 0.01))


def test_a_counter_that_could_seldom_be_looked_at_is_refused() -> None:
    assert "could be read only every" in refused(watched(Curve(100), 2.0, 5.0, 0.01, poll_s=0.09))


def watched_on_a_busy_host(call_s: Callable[[int], float], seconds: float = 5.2) -> EnergyWindow:
    """A window whose counter takes that long to read (by number of the reading), on a simulated clock."""
    curve, reads = Curve(650, swing=200, period=1.7, now=7.03), [0]
    began = curve.now
    inner = curve.read

    def read() -> float:
        curve.now += call_s(reads[0]) / 2
        joules = inner()
        curve.now += call_s(reads[0]) / 2
        reads[0] += 1
        return joules

    def over(wait_s: float) -> bool:
        curve.now += wait_s
        return curve.now > began + seconds

    trace = Trace(SlowCounter(read))
    trace.poll(lambda: curve.now)
    poll_counters([trace], over, lambda: curve.now)
    return EnergyWindow(
        began, tuple(began + 0.12 * (n + 1) for n in range(int(seconds / 0.12) + 1)), (trace,)
    )


@dataclass
class SlowCounter:
    read: Callable[[], float]
    name: str = "NVML total energy"
    tick_s: float = NVML_TICK_S


@pytest.mark.parametrize("slowest_s", [0.0024, 0.0057, 0.015])
def test_a_counter_that_takes_milliseconds_to_read_still_gives_joules_within_one_percent(
    slowest_s: float,
) -> None:
    # An H200 on a virtual machine: 2.4 to 5.7 ms a reading.
    window = watched_on_a_busy_host(lambda number: slowest_s * (0.5 + 0.5 * (number % 3 == 0)))
    first, last = window.traces[0].edges()
    curve = Curve(650, swing=200, period=1.7)
    # A tick is seen late, by at most a wait and two readings.
    truth = (curve.joules(last.first) - curve.joules(first.first)) / (last.first - first.first)
    assert window.joules_per_iteration() / 0.12 == pytest.approx(truth, rel=0.01)


def test_a_counter_that_takes_longer_than_half_a_tick_to_read_is_refused() -> None:
    assert "could be read only every" in refused(watched_on_a_busy_host(lambda _: 0.06))


def test_sensors_that_do_not_answer_do_not_keep_the_counter_from_being_polled() -> None:
    polled, release = threading.Event(), threading.Event()
    reads = [0]

    class Counting:
        name, tick_s = "counting", 0.001

        def read(self) -> float:
            reads[0] += 1
            if reads[0] > 20:
                polled.set()
            return float(reads[0])

    def sensors() -> Sensors:
        release.wait()
        return Sensors(1e9, 1e9, 50.0, ())

    def work() -> None:
        polled.wait()
        release.set()

    window = run_window(work, 0.0, [Counting()], sensors)
    assert len(window.traces[0].ticks) > 20


def test_unfinished_iterations_count_by_their_share_of_time() -> None:
    window = EnergyWindow(1.0, (2.0, 4.0))
    assert [window.done_at(moment) for moment in (0.5, 1.5, 2.0, 3.0, 4.0, 9.0)] == [0, 0.5, 1, 1.5, 2, 2]
    assert window.seconds == 3.0
    assert "no energy counter" in refused(window)


def test_without_a_counter_a_window_still_has_its_iterations() -> None:
    assert run_window(lambda: None, 0.0).iterations == 2
    window = run_window(lambda: time.sleep(0.001), 0.02)
    assert window.seconds >= 0.02
    assert window.traces == ()


# Each GPU of the stand-in has a counter with its own fate; all of them are watched at once, for real.
NVML_PROGRAM = """
import json, time
from concurrent.futures import ThreadPoolExecutor
from runner.kit.precision.counters import EnergyError, nvml_counter
from runner.kit.precision.energy import run_window
def one(counter):
    window = run_window(lambda: time.sleep(0.03), 5.2, [counter], counter.sensors)
    try:
        found = window.joules_per_iteration()
        first, last = window.traces[0].edges()
        done = window.done_at(last.first) - window.done_at(first.first)
        return {"joules": found * done, "from": first.first, "to": last.first, "sensors": str(window.sensors[-1])}
    except EnergyError as error:
        return {"refused": str(error)}
counters = [nvml_counter(f"GPU-stand-in-{gpu}") for gpu in range(7)]
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(one, counters))))
"""


def watch_on_nvml(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """What each of the seven counters gave, or why it was refused."""
    done = subprocess.run(
        [sys.executable, "-c", NVML_PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_real_watch_of_nvml_is_right_within_one_percent_or_refuses(tmp_path: Path) -> None:
    curves = [(650, 0, 1000), (500, 450, 1700), (300, 100, 25000), *[(400, 0, 1000)] * 4]
    board = nvml.EIGHT_B200 + "temperature 61\nreasons 4\n"
    board += "".join(f"energy {gpu} {w} {s} {p}\n" for gpu, (w, s, p) in enumerate(curves))
    board += (
        "energy_wrap 3 2500\nenergy_stall 4 2500 3200 0\nenergy_stall 5 2500 2750 1\nenergy_lost 6 2500\n"
    )
    environment = {**os.environ, **nvml.environment(tmp_path, board)}
    found = watch_on_nvml(environment)
    # Refused is right on a host that was too busy for the watch; what is asked here is how it sees the counters.
    while any("the host is too busy" in one.get("refused", "") for one in found):
        found = watch_on_nvml(environment)
    for one, (watts, swing, period) in zip(found[:3], curves[:3], strict=True):
        curve = Curve(watts, swing, period / 1e3)
        truth = curve.joules(one["to"]) - curve.joules(one["from"])
        assert one["joules"] == pytest.approx(truth, rel=0.01)
        assert "temperature_c=61.0" in one["sensors"]
        assert "software power cap" in one["sensors"]
        assert "sm_clock_hz=1965000000.0" in one["sensors"]
    for one, reason in zip(
        found[3:], ["went back", "did not change", "lost joules", "cannot read NVML"], strict=True
    ):
        assert reason in one["refused"]


def test_a_gpu_without_an_energy_counter_says_so_at_once(tmp_path: Path) -> None:
    program = (
        "from runner.kit.precision.counters import EnergyError, nvml_counter\n"
        "try: nvml_counter('GPU-stand-in-0')\n"
        "except EnergyError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **nvml.environment(tmp_path, nvml.EIGHT_B200)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot read NVML's energy counter" in done.stdout


def domain(root: Path, folder: str, name: str, energy: int, size: int = 1000) -> Path:
    path = root / folder
    path.mkdir()
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{size}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    return path


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    domain(tmp_path, "intel-rapl:0", "package-0", 900)
    domain(tmp_path, "intel-rapl:0:0", "core", 1)
    domain(tmp_path, "intel-rapl:1", "package-1", 100)
    domain(tmp_path, "intel-rapl:2", "psys", 7)
    return tmp_path


def test_rapl_has_a_counter_a_package_and_survives_their_overflow(powercap: Path) -> None:
    first, second = rapl_counters(powercap)
    assert first.read() == 0
    (powercap / "intel-rapl:0" / "energy_uj").write_text("50\n")
    (powercap / "intel-rapl:1" / "energy_uj").write_text("300\n")
    assert first.read() == pytest.approx(150e-6)
    assert second.read() == pytest.approx(200e-6)


def test_a_rapl_counter_that_steps_back_or_vanishes_is_refused(powercap: Path) -> None:
    first, second = rapl_counters(powercap)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("899\n")
    with pytest.raises(EnergyError, match="jumped from 900 to 899"):
        first.read()
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    with pytest.raises(EnergyError, match="cannot read RAPL"):
        second.read()


def test_a_window_over_two_rapl_packages_adds_them_up_across_an_overflow(tmp_path: Path) -> None:
    places = [domain(tmp_path, f"intel-rapl:{n}", f"package-{n}", 0, size=20_000_000) for n in range(2)]
    counters = rapl_counters(tmp_path)
    clock, traces = [0.0], [Trace(counter) for counter in counters]
    for step in range(601):
        clock[0] = step * 0.01
        for place, watts in zip(places, (100, 250), strict=True):
            (place / "energy_uj").write_text(f"{int(watts * clock[0] * 1e6) % 20_000_000}\n")
        for trace in traces:
            trace.poll(lambda: clock[0])
    window = EnergyWindow(0.0, tuple((n + 1) * 0.02 for n in range(300)), tuple(traces))
    assert window.joules_per_iteration() == pytest.approx(350 * 0.02, rel=0.01)


def test_a_host_without_rapl_says_so_and_one_that_may_not_be_read_too(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match="has no RAPL energy counter"):
        rapl_counters(tmp_path)
    (domain(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").unlink()
    with pytest.raises(EnergyError, match="no permission to read RAPL"):
        rapl_counters(tmp_path)


@pytest.mark.parametrize(
    ("seen", "changes"),
    [([0.0], 0), ([0.0, 4.0], 1)],
)
def test_a_counter_that_was_seen_at_one_or_two_values_is_refused(seen: list[float], changes: int) -> None:
    times = [number * 0.09 / len(seen) for number in range(len(seen) + 1)]
    ticks = [Tick(joules, *between) for joules, between in zip(seen, pairwise(times), strict=True)]
    trace = Trace(Curve(100, tick_s=0.001), ticks)
    assert f"changed {changes} times in 0.09 s" in refused(EnergyWindow(0.0, (0.05, 0.09), (trace,)))


def test_a_counter_that_was_never_seen_is_refused() -> None:
    assert "too short" in refused(EnergyWindow(0.0, (0.05, 0.09), (Trace(Curve(100)),)))


@pytest.mark.parametrize("silent_from", [1, 3])
def test_a_counter_that_does_not_answer_ends_neither_the_work_nor_the_probe(
    silent_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "ANSWER_S", 0.2)
    reads, silent, release = [0], threading.Event(), threading.Event()

    class Hanging:
        name, tick_s = "hanging", 0.001

        def read(self) -> float:
            reads[0] += 1
            if reads[0] >= silent_from:
                silent.set()
                release.wait()
            return float(reads[0])

    window = run_window(silent.wait, 0.0, [Hanging()])
    release.set()
    assert window.iterations == 2
    assert refused(window) == "the energy counter does not answer"


def test_sensors_that_never_answer_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "ANSWER_S", 0.2)
    asked, release = threading.Event(), threading.Event()

    class Counting:
        name, tick_s = "counting", 0.001

        def read(self) -> float:
            return time.monotonic()

    def sensors() -> Sensors:
        asked.set()
        release.wait()
        return Sensors(1e9, 1e9, 50.0, ())

    window = run_window(asked.wait, 0.0, [Counting()], sensors)
    assert window.sensors == ()
    release.set()
