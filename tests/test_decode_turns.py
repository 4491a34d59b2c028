"""How starts are taken and stopped, with processes that say what they took instead of decoding: no clock decides."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.models import model_shape
from runner.probes.budget import Budget
from runner.probes.compile_guard.spec import Mode
from runner.probes.decode.arms import compared
from runner.probes.decode.job import Job
from runner.probes.decode.report import undecided
from runner.probes.decode.turns import Series, Taken, take
from runner.sequential import FEWEST

HANG_S = 120.0
WORKER = """
import os

from runner.probes.ranks import RankLine

line, number = RankLine(), 0
seconds, waited = float(os.environ["SECONDS"]), float(os.environ["WAITED"])
line.send({"loaded": True, "forks": os.environ["FORKS"] == "1"})
for command in line.commands():
    if "start" in command:
        number += 1
        line.send({"threads": 2, "dtype": "float32", "torch": "2", "number": number})
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
class Told(Job):
    """A job whose worker is a file."""

    def program(self, mode: Mode) -> list[str]:
        """The file."""
        del mode
        return [self.model]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    return Told(str(tmp_path / "worker.py"), model_shape("tiny"), None, "cpu", 1, 1, 16, 4)


def environments(caller: float, clean: float, waited: float = 0.0) -> Mapping[str, Mapping[str, str]]:
    own = dict(os.environ) | {
        "WAITED": str(waited),
        "FORKS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    return {
        "caller": own | {"SECONDS": str(caller), "STEP": "2"},
        "clean": own | {"SECONDS": str(clean), "STEP": "3"},
    }


def taken(
    job: Job, sides: Mapping[str, Mapping[str, str]], left: float = HANG_S, bound: float = 0.95
) -> Taken:
    now = time.monotonic()
    return take(job, Mode.EAGER, sides, Series(12, 4, Budget(now + left), now + HANG_S, bound))


def test_a_side_that_is_far_slower_is_found_in_the_fewest_starts(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    found = taken(job, environments(caller=1.7, clean=1.0))
    assert found.starts == FEWEST
    assert capsys.readouterr().err.splitlines() == ["decided after 4 of at most 12 starts"]


def test_equal_sides_are_decided_before_the_last_start(job: Job) -> None:
    found = taken(job, environments(caller=1.0, clean=1.0), bound=0.9)
    assert FEWEST <= found.starts < 12
    assert undecided(compared(found.arms["caller"], found.arms["clean"]), 0.9) is None


def test_a_ratio_at_the_bound_is_undecided_after_the_last_start(job: Job) -> None:
    found = taken(job, environments(caller=1.0, clean=1.0), bound=1.0)
    assert found.starts == 12
    assert "unknown whether" in (undecided(compared(found.arms["caller"], found.arms["clean"]), 1.0) or "")


def test_on_a_busy_machine_turns_are_repeated_and_even_a_clear_difference_decides_nothing(job: Job) -> None:
    found = taken(job, environments(caller=1.7, clean=1.0, waited=0.5))
    assert found.starts == 12
    comparisons = compared(found.arms["caller"], found.arms["clean"])
    assert "0 of 12 starts undisturbed" in (undecided(comparisons, 0.95) or "")
    assert all(4 <= len(start.first) <= 12 for start in found.arms["caller"].starts)
    assert any(len(start.first) > 4 for start in found.arms["caller"].starts)


def test_where_the_time_is_over_the_start_at_work_is_the_last(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    found = taken(job, environments(caller=1.7, clean=1.0), left=0.0)
    assert found.starts == 1
    assert "ran 1 of 12 starts: time limit" in capsys.readouterr().err


def test_one_launch_gives_every_start_where_starts_are_forks_and_one_where_they_are_not(
    job: Job,
) -> None:
    launched = taken(job, environments(caller=1.7, clean=1.0))
    assert sorted(start.first[0] for start in launched.arms["caller"].starts) == pytest.approx(
        [1.7 * (1 + 0.01 * step) for step in (1, 2, 3, 4)]
    )
    sides = {name: {**own, "FORKS": "0"} for name, own in environments(caller=1.7, clean=1.0).items()}
    apart = taken(job, sides)
    assert {start.first[0] for start in apart.arms["caller"].starts} == {1.7 * 1.02}
