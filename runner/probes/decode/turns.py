"""How `gpt_large_optimized` takes its turns: environments side by side, each in processes that are started anew."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import RunbookError
from runner.probes.compile_guard.spec import Mode
from runner.probes.contract import say
from runner.probes.decode.arms import FEWEST_STARTS, Arm, Start, calm_pairs
from runner.probes.decode.job import Job
from runner.probes.decode.launches import Launches
from runner.probes.decode.worker import WARM_STEPS
from runner.probes.ranks import World
from runner.stats import FEWEST_FOR_BOOTSTRAP

_WARM_UP_TURNS = 2
# Steps whose launches are counted; the turn has that many, or fewer.
_COUNTED_STEPS = 8
# Of a start's equal part of the time left, what its turns may take, those taken again included.
_TURNS_SHARE = 0.5
_MOST_REPEATS = 3
# Starts do not take equally long, and one that came too late would lose all before it.
_SPARE = 1.5


@dataclass(frozen=True)
class Series:
    """What is to be taken.

    Attributes:
        starts: processes of each environment, one after another.
        turns: of each process: a prefill with its decoding.
        deadline: `time.monotonic()` of it all.
    """

    starts: int
    turns: int
    deadline: float


@dataclass
class Taken:
    """What came of it.

    Attributes:
        arms: by environment.
        ready: what the caller's first process said of itself.
        tokens: that it chose.
    """

    arms: dict[str, Arm]
    ready: Mapping[str, Any]
    tokens: list[int]


def take(job: Job, mode: Mode, environments: Mapping[str, Mapping[str, str]], series: Series) -> Taken:
    """Decode in every environment, start by start.

    Where the time ends before the starts do, those that there are must do.

    Raises:
        RunbookError: a rank died or was late, or too few starts for a comparison fit into the time.
    """
    taken = Taken({name: Arm() for name in environments}, {}, [])
    longest = 0.0
    for number in range(series.starts):
        began = time.monotonic()
        if began + _SPARE * longest > series.deadline:
            _enough(number, series, compared=len(environments) > 1)
            break
        # Neither arm always starts first, nor takes the first turn.
        order = list(environments)[:: -1 if number % 2 else 1]
        with contextlib.ExitStack() as stack:
            worlds = {
                name: stack.enter_context(_world(job, mode, environments[name], series.deadline, name))
                for name in order
            }
            _use(worlds, taken, job, mode, series)
            # All at once, so that they are waited for once.
            for world in worlds.values():
                world.dismiss()
        longest = max(longest, time.monotonic() - began)
    return taken


def _world(job: Job, mode: Mode, environment: Mapping[str, str], deadline: float, name: str) -> World:
    return World(job.program(mode), job.ranks if job.ranks > 1 else None, environment, deadline, name)


def _enough(starts: int, series: Series, *, compared: bool) -> None:
    if compared and starts < FEWEST_STARTS:
        raise RunbookError(
            f"{starts} starts in the time there is, too few to tell environments apart ({FEWEST_STARTS} or more);"
            " raise --timeout, or choose a smaller --model"
        )
    say(f"{starts} of {series.starts} starts in the time there is")


def _use(worlds: Mapping[str, World], taken: Taken, job: Job, mode: Mode, series: Series) -> None:
    """One start of every environment: warmed up, timed turn and turn about, and the first one looked into."""
    starts: dict[str, Start] = {}
    for name, world in worlds.items():
        (said, *_) = world.ask(None, "building the model")
        taken.arms[name].threads = said["threads"]
        if name == "caller":
            taken.ready = said
    for name, world in worlds.items():
        for _ in range(_WARM_UP_TURNS):
            (answer, *_) = world.ask({"new_tokens": job.new_tokens}, "warming up")
        if name == "caller":
            taken.tokens = answer["tokens"]
        starts[name] = Start()
    left = series.starts - len(taken.arms["caller"].starts)
    latest = time.monotonic() + (series.deadline - time.monotonic()) / left * _TURNS_SHARE
    _take_turns(worlds, starts, series.turns, job, latest)
    for name, start in starts.items():
        taken.arms[name].starts.append(start)
        if len(taken.arms[name].starts) == 1:
            _look_inside(worlds[name], taken.arms[name], job, mode)


def _take_turns(
    worlds: Mapping[str, World], starts: Mapping[str, Start], turns: int, job: Job, latest: float
) -> None:
    """Decode turn and turn about; where other work disturbed it, up to three times as often.

    At `latest` it ends with the turns that there are, unless they are too few to say how they spread.
    """
    turn = 0
    while turn < turns or (turn < turns * _MOST_REPEATS and _disturbed(starts, turns)):
        if time.monotonic() > latest and turn >= FEWEST_FOR_BOOTSTRAP:
            say(f"{turn} turns in the time there is")
            return
        # ABBA: so that a drift of the machine cancels.
        for name, world in list(worlds.items())[:: -1 if turn % 2 else 1]:
            starts[name].add(world.ask({"new_tokens": job.new_tokens}, "decoding"))
        turn += 1


def _disturbed(starts: Mapping[str, Start], wanted: int) -> bool:
    """Whether a comparison still lacks pairs that were left in peace."""
    if "clean" not in starts:
        return False
    return any(len(pairs) < wanted for pairs in calm_pairs(starts["caller"], starts["clean"]).values())


def _look_inside(world: World, arm: Arm, job: Job, mode: Mode) -> None:
    """Peak memory and launches, in turns that are not timed: looking costs time."""
    # Without a device's allocator only an eager model in one process shows its storages.
    if job.device == "cuda" or (job.ranks == 1 and mode is Mode.EAGER):
        answers = world.ask({"peak": job.new_tokens}, "measuring memory")
        arm.peak = max(answer["peak"] for answer in answers)
    steps = min(_COUNTED_STEPS, job.new_tokens - 1 - WARM_STEPS)
    if job.device == "cuda" and steps > 0:
        counts = [answer["launches"] for answer in world.ask({"launches": steps}, "counting launches")]
        if all(counts):
            arm.launches = min((Launches(**found) for found in counts), key=lambda found: found.replays)
            arm.counted_steps = steps
