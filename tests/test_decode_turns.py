"""How starts are taken and stopped, with processes that say what they took instead of decoding: no clock decides."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.base.sequential import FEWEST
from runner.kit import ranks
from runner.kit.budget import Budget
from runner.kit.compile_options import Mode
from runner.kit.decode import turns
from runner.kit.decode.arms import compared
from runner.kit.decode.job import DecodeJob
from runner.kit.decode.report import undecided
from runner.kit.decode.turns import RequestedStarts, TakenStarts, take_starts
from runner.kit.profiling import Launches
from runner.sizing.models import model_shape

HANG_S = 120.0
WORKER = """
import os
import time

from runner.kit.rank_line import RankLine

line, number = RankLine(), 0
seconds, waited = float(os.environ["SECONDS"]), float(os.environ["WAITED"])
line.send({"loaded": True, "forks": os.environ["FORKS"] == "1"})
for command in line.commands():
    if "start" in command:
        number += 1
        line.send({"threads": 2, "dtype": "float32", "torch": "2", "number": number})
    elif "cache" in command:
        line.send({"hits": 1, "misses": 0})
    elif "replays" in command:
        line.send({"replays": command["replays"]})
    elif "launches" in command and os.environ["PROFILER"] == "hangs":
        time.sleep(600)
    elif "launches" in command:
        line.send({"launches": {"captures": 0, "replays": command["launches"], "plain": 3}})
    elif "peak" in command:
        line.send({"peak": 1})
    elif "end" in command:
        line.send({"ended": True})
    else:
        # Each start has a speed of its own, and the two sides are not alike in it.
        own = seconds * (1 + 0.01 * (number * int(os.environ["STEP"]) % 5))
        line.send({"first": own, "rest": [own / 10] * 3, "waited": [waited, waited], "tokens": [1, 2]})
"""


@dataclass(frozen=True)
class Told(DecodeJob):
    """A job whose worker is a file."""

    def program(self, mode: Mode) -> list[str]:
        """The file."""
        del mode
        return [self.model]


@pytest.fixture
def job(tmp_path: Path) -> DecodeJob:
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    return Told(str(tmp_path / "worker.py"), model_shape("tiny"), None, "cpu", 1, 1, 16, 4)


def environments(caller: float, clean: float, waited: float = 0.0) -> Mapping[str, Mapping[str, str]]:
    own = dict(os.environ) | {
        "WAITED": str(waited),
        "FORKS": "1",
        "PROFILER": "works",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    return {
        "caller": own | {"SECONDS": str(caller), "STEP": "2"},
        "clean": own | {"SECONDS": str(clean), "STEP": "3"},
    }


def taken(
    job: DecodeJob, sides: Mapping[str, Mapping[str, str]], left: float = HANG_S, bound: float = 0.95
) -> TakenStarts:
    now = time.monotonic()
    return take_starts(
        job, Mode.EAGER, sides, RequestedStarts(12, 4, Budget(now + left), now + HANG_S, bound)
    )


def test_a_side_that_is_far_slower_is_found_in_the_fewest_starts(
    job: DecodeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    found = taken(job, environments(caller=1.7, clean=1.0))
    assert found.starts == FEWEST
    assert capsys.readouterr().err.splitlines() == ["decided after 4 of at most 12 starts"]


def test_equal_sides_are_decided_before_the_last_start(job: DecodeJob) -> None:
    found = taken(job, environments(caller=1.0, clean=1.0), bound=0.9)
    assert FEWEST <= found.starts < 12
    assert undecided(compared(found.arms["caller"], found.arms["clean"]), 0.9) is None


def test_a_ratio_at_the_bound_is_undecided_after_the_last_start(job: DecodeJob) -> None:
    found = taken(job, environments(caller=1.0, clean=1.0), bound=1.0)
    assert found.starts == 12
    assert "unknown whether" in (undecided(compared(found.arms["caller"], found.arms["clean"]), 1.0) or "")


def test_on_a_busy_machine_turns_are_repeated_and_even_a_clear_difference_decides_nothing(
    job: DecodeJob,
) -> None:
    found = taken(job, environments(caller=1.7, clean=1.0, waited=0.5))
    assert found.starts == 12
    comparisons = compared(found.arms["caller"], found.arms["clean"])
    assert "0 of 12 starts undisturbed" in (undecided(comparisons, 0.95) or "")
    assert all(4 <= len(start.first) <= 12 for start in found.arms["caller"].starts)
    assert any(len(start.first) > 4 for start in found.arms["caller"].starts)


def test_where_the_time_is_over_the_start_at_work_is_the_last(
    job: DecodeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    found = taken(job, environments(caller=1.7, clean=1.0), left=0.0)
    assert found.starts == 1
    assert "ran 1 of 12 starts: time limit" in capsys.readouterr().err


def test_one_launch_gives_every_start_where_starts_are_forks_and_one_where_they_are_not(
    job: DecodeJob,
) -> None:
    launched = taken(job, environments(caller=1.7, clean=1.0))
    assert sorted(start.first[0] for start in launched.arms["caller"].starts) == pytest.approx(
        [1.7 * (1 + 0.01 * step) for step in (1, 2, 3, 4)]
    )
    sides = {name: {**own, "FORKS": "0"} for name, own in environments(caller=1.7, clean=1.0).items()}
    apart = taken(job, sides)
    assert {start.first[0] for start in apart.arms["caller"].starts} == {1.7 * 1.02}


@pytest.fixture
def on_gpu(job: DecodeJob) -> DecodeJob:
    # With enough tokens to count launches.
    return Told(job.model, job.shape, None, "cuda", 1, 1, 16, 16)


def test_launches_of_a_step_on_a_gpu_are_counted_with_the_profiler(on_gpu: DecodeJob) -> None:
    sides = environments(caller=1.0, clean=1.0)
    now = time.monotonic()
    series = RequestedStarts(1, 4, Budget(now + HANG_S), now + HANG_S, 0.9)
    (arm,) = take_starts(on_gpu, Mode.WHOLE, {"caller": sides["caller"]}, series).arms.values()
    assert (arm.launches, arm.counted_steps, arm.stuck) == (Launches(0, 8, 3), 8, False)
    assert arm.cache == {"hits": 1, "misses": 0}


def test_a_profiler_that_does_not_return_leaves_the_replays(
    on_gpu: DecodeJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(turns, "_PROFILED_S", 0.5)
    monkeypatch.setattr(ranks, "_END_GRACE_S", 0.1)
    caller = {**environments(caller=1.0, clean=1.0)["caller"], "PROFILER": "hangs"}
    now = time.monotonic()
    series = RequestedStarts(2, 4, Budget(now + HANG_S), now + HANG_S, 0.9)
    taken = take_starts(on_gpu, Mode.WHOLE, {"caller": caller}, series)
    assert taken.starts == 2
    assert (taken.arms["caller"].launches, taken.arms["caller"].stuck) == (Launches(None, 8, None), True)
    assert "launches are not counted: the profiler did not return" in capsys.readouterr().err


def test_on_a_gpu_the_fewest_starts_that_decide_are_taken_whatever_the_budget(on_gpu: DecodeJob) -> None:
    now = time.monotonic()
    spent, enough = Budget(now), Budget(now + HANG_S)
    sides = environments(caller=1.0, clean=1.0)
    series = RequestedStarts(12, 4, spent, now + HANG_S, 1.0, fewest=FEWEST, latest=enough)
    assert take_starts(on_gpu, Mode.EAGER, sides, series).starts == FEWEST
    series = RequestedStarts(12, 4, spent, now + HANG_S, 1.0, fewest=FEWEST, latest=spent)
    assert take_starts(on_gpu, Mode.EAGER, sides, series).starts == 1
