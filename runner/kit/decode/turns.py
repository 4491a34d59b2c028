"""Runs the turns of `gpt_large_optimized`: all environments, start by start, until the comparison is decided."""

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.base.errors import LateRankError
from runner.kit.budget import Budget
from runner.kit.compile_options import Mode
from runner.kit.decode.arms import (
    FEWEST_UNDISTURBED,
    DecodeArm,
    DecodeStart,
    comparisons_of,
    intervals,
    undisturbed_pairs,
)
from runner.kit.decode.job import DecodeJob
from runner.kit.decode.worker import WARM_STEPS
from runner.kit.interleaved import Rounds, alternated, decided, interleaved, no_time
from runner.kit.probe import say
from runner.kit.profiling import Launches
from runner.kit.ranks import World

_WARM_UP_TURNS = 2
# Maximum number of steps whose launches are counted.
_COUNTED_STEPS = 8
# Eight profiled steps take a few seconds.
_PROFILED_S = 45.0
_MOST_REPEATS = 3
# Margin: starts differ in duration, and a start that missed the deadline would lose all earlier ones.
_SPARE = 1.5


@dataclass(frozen=True)
class RequestedStarts:
    """The requested turns.

    Attributes:
        starts: maximum number of starts of each environment.
        turns: turns of each start: a prefill with its decoding.
        budget: a start that would not end within it is not begun.
        fewest: starts of each environment that do not depend on `budget`; fewer decide nothing.
        latest: limit of the time of those.
        deadline: `time.monotonic()` after which a process that has not answered is an error.
        bound: bound of the ratio between two environments; no further start is begun once it is decided.
    """

    starts: int
    turns: int
    budget: Budget
    deadline: float
    bound: float
    fewest: int = 1
    latest: Budget | None = None


@dataclass
class TakenStarts:
    """The turns that were taken.

    Attributes:
        arms: by environment.
        ready: facts reported by the caller's first start.
        tokens: the tokens that it generated.
    """

    arms: dict[str, DecodeArm]
    ready: Mapping[str, Any]
    tokens: list[int]

    @property
    def starts(self) -> int:
        """Number of complete starts of each environment."""
        return len(self.arms["caller"].starts)


def take_starts(
    job: DecodeJob, mode: Mode, environments: Mapping[str, Mapping[str, str]], series: RequestedStarts
) -> TakenStarts:
    """Decode in every environment, start by start: at least one, and no more than needed for a decision.

    Raises:
        RunbookError: a process died, or did not answer by the deadline.
    """
    taken = TakenStarts({name: DecodeArm() for name in environments}, {}, [])
    longest, enough = 0.0, False
    while not enough:
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            worlds = {
                name: stack.enter_context(_world(job, mode, environments[name], series.deadline, name))
                for name in environments
            }
            loaded = [said for world in worlds.values() for said in world.ask(None, "loading torch")]
            forks, more = all(said["forks"] for said in loaded), True
            while more:
                # If one launch serves all starts, its duration occurs once and does not predict the next start.
                began = time.monotonic() if forks else began
                _start(worlds, taken, job, mode, series)
                longest = max(longest, time.monotonic() - began)
                enough = _enough(taken, series, longest)
                more = forks and not enough and not any(arm.stuck for arm in taken.arms.values())
            # All together, so that the waits overlap.
            for world in worlds.values():
                world.dismiss()
    return taken


def _world(job: DecodeJob, mode: Mode, environment: Mapping[str, str], deadline: float, name: str) -> World:
    return World(job.program(mode), job.ranks if job.ranks > 1 else None, environment, deadline, name)


def _enough(taken: TakenStarts, series: RequestedStarts, longest: float) -> bool:
    """Whether to stop: all starts are done, the comparison is decided, or the next would not end in time."""
    if taken.starts == series.starts:
        return True
    comparisons = comparisons_of(taken.arms)
    if comparisons and decided(intervals(comparisons), series.bound):
        say(f"decided after {taken.starts} of at most {series.starts} starts")
        return True
    within = series.latest if series.latest and taken.starts < series.fewest else series.budget
    if not within.has(_SPARE * longest):
        say(f"ran {taken.starts} of {series.starts} starts: time limit")
        return True
    return False


def _start(
    worlds: Mapping[str, World], taken: TakenStarts, job: DecodeJob, mode: Mode, series: RequestedStarts
) -> None:
    """One start of every environment: build, warm up, time in interleaved turns; inspect the first start."""
    began, starts = time.monotonic(), dict[str, DecodeStart]()
    for name in alternated(worlds, taken.starts):
        (said, *_) = worlds[name].ask({"start": True}, "building the model")
        taken.arms[name].threads = said["threads"]
        for _ in range(_WARM_UP_TURNS):
            (answer, *_) = worlds[name].ask({"new_tokens": job.new_tokens}, "warming up")
        if name == "caller" and not taken.starts:
            taken.ready, taken.tokens = said, answer["tokens"]
        starts[name] = DecodeStart()
    _take_turns(worlds, starts, job, series, taken.starts, time.monotonic() - began)
    for name, start in starts.items():
        if not taken.arms[name].starts:
            _look_inside(worlds[name], taken.arms[name], job, mode)
        taken.arms[name].starts.append(start)
        if not taken.arms[name].stuck or taken.starts > 1:
            worlds[name].ask({"end": True}, "ending the start")


def _take_turns(
    worlds: Mapping[str, World],
    starts: Mapping[str, DecodeStart],
    job: DecodeJob,
    series: RequestedStarts,
    first: int,
    start_up: float,
) -> None:
    """Decode in interleaved turns; up to three times as many if other processes disturbed them.

    Turns are repeated for as long as the start took to build: after that, another start gives more information. At the
    end of the budget it stops with the turns it has, unless they are too few for a median.
    """
    repeats_end = math.inf

    def enough(turns: int) -> bool:
        nonlocal repeats_end
        if turns == series.turns:
            repeats_end = time.monotonic() + start_up
        late = time.monotonic() >= repeats_end
        return turns >= series.turns and (late or not _disturbed(starts, series.turns))

    def turn(name: str, _: int) -> None:
        starts[name].add(worlds[name].ask({"new_tokens": job.new_tokens}, "decoding"))

    rounds = Rounds(
        series.turns * _MOST_REPEATS,
        series.budget,
        fewest=FEWEST_UNDISTURBED,
        expect=no_time,
        enough=enough,
        late=lambda turns: say(f"ran {turns} turns: time limit"),
        first=first,
    )
    interleaved({name: partial(turn, name) for name in starts}, rounds)


def _disturbed(starts: Mapping[str, DecodeStart], wanted: int) -> bool:
    """Whether a comparison still lacks undisturbed pairs."""
    if "clean" not in starts:
        return False
    return any(len(pairs) < wanted for pairs in undisturbed_pairs(starts["caller"], starts["clean"]).values())


def _look_inside(world: World, arm: DecodeArm, job: DecodeJob, mode: Mode) -> None:
    """Peak memory and launches, in untimed turns, because measuring them costs time."""
    # Without a device allocator, storages can be tracked only in an eager model in one process.
    if job.device == "cuda" or (job.ranks == 1 and mode is Mode.EAGER):
        answers = world.ask({"peak": job.new_tokens}, "measuring memory")
        arm.peak = max(answer["peak"] for answer in answers)
    if mode is not Mode.EAGER:
        (arm.cache, *_) = world.ask({"cache": True}, "reading the compile cache's counters")
    steps = min(_COUNTED_STEPS, job.new_tokens - 1 - WARM_STEPS)
    if job.device == "cuda" and steps > 0:
        _count(world, arm, steps)


def _count(world: World, arm: DecodeArm, steps: int) -> None:
    """Count graph replays, then all launches under the profiler; the replays remain if the profiler does not return."""
    replays = min(answer["replays"] for answer in world.ask({"replays": steps}, "counting replays"))
    arm.counted_steps, arm.launches = steps, Launches(None, replays, None)
    latest = time.monotonic() + _PROFILED_S
    try:
        counts = [
            answer["launches"] for answer in world.ask({"launches": steps}, "counting launches", latest)
        ]
    except LateRankError:
        arm.stuck = True
        say(f"launches are not counted: the profiler did not return within {_PROFILED_S:.0f} s")
        return
    if all(counts):
        arm.launches = min((Launches(**found) for found in counts), key=lambda found: found.replays)
