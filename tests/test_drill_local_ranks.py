import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from runner.base.errors import RankError
from runner.kit.drill.local_ranks import LocalRanks

# Guards against a hang only; nothing is judged by it.
HANG_S = 400.0
RANK = """
import json, os, signal, sys
from runner.kit.rank_line import RankLine
line = RankLine()
line.send({{"ready": True}})
{body}
for command in line.commands():
    line.send({{"echo": command, "size": os.environ["WORLD_SIZE"], "agent": "TORCHELASTIC_RUN_ID" in os.environ}})
"""


def started(folder: Path, body: str = "", ranks: int = 2, seconds: float = HANG_S) -> LocalRanks:
    program = folder / "rank.py"
    program.write_text(RANK.format(body=body), encoding="utf-8")
    environment = dict(os.environ) | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TORCHELASTIC_RUN_ID": "x",
    }
    return LocalRanks([str(program)], ranks, environment, folder, time.monotonic() + seconds)


def test_ranks_answer_in_their_order_and_belong_to_no_other_launch(tmp_path: Path) -> None:
    with started(tmp_path, ranks=3) as ranks:
        assert ranks.ask(None, "starting") == [{"ready": True}] * 3
        answers = ranks.ask({"n": 1}, "answering")
        assert answers == [{"echo": {"n": 1}, "size": "3", "agent": False}] * 3
        ranks.dismiss()
        assert ranks.complaining() == []


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("if line.rank == 1: os.kill(os.getpid(), signal.SIGABRT)", "SIGABRT"),
        ("if line.rank == 1: raise SystemExit(7)", "exit status 7"),
        ("if line.rank == 1: raise ValueError('x')", "exit status 1: ValueError: x"),
        ("if line.rank == 1: line.send({'ended': 'RuntimeError: no'}); os._exit(1)", "RuntimeError: no"),
    ],
)
def test_one_rank_that_ends_is_heard_and_the_others_go_on(tmp_path: Path, body: str, word: str) -> None:
    with started(tmp_path, body) as ranks:
        ranks.wait_until(lambda: ranks.gone(1) and ranks.answered(0), "ending")
        ranks.take(0)
        assert ranks.last_word(1) == word
        assert (ranks.last_word(0), ranks.complaining()) == (None, [1])
        ranks.tell({"n": 2})
        ranks.wait_until(lambda: ranks.answered(0), "answering")
        assert ranks.take(0)["echo"] == {"n": 2}


def test_a_rank_that_must_not_end_is_named_with_its_last_word(tmp_path: Path) -> None:
    said = r"^rank 0: exit status 4, while answering$"
    one_ends = started(tmp_path, "if line.rank == 0: raise SystemExit(4)")
    with one_ends as ranks, pytest.raises(RankError, match=said):
        ranks.wait_until(lambda: False, "answering", ends=False)


def test_the_deadline_says_where_each_rank_was_last(tmp_path: Path) -> None:
    with started(tmp_path, "line.mark('at the door')\nif line.rank == 1: signal.pause()") as ranks:
        ranks.wait_until(lambda: all(ranks.marks(rank) for rank in range(2)), "starting")
        ranks._deadline = time.monotonic()
        with pytest.raises(RankError, match="rank 0 at at the door, rank 1 at at the door"):
            ranks.wait_until(lambda: False, "waiting")


def test_a_stopped_rank_is_continued_and_also_ended(tmp_path: Path) -> None:
    body = "if line.rank == 1: line.mark('stops'); os.kill(os.getpid(), signal.SIGSTOP)"
    with started(tmp_path, body) as ranks:
        ranks.ask(None, "starting")
        ranks.wait_until(lambda: bool(ranks.marks(1)), "stopping")
        ranks.resume(1)
        assert ranks.ask({"n": 3}, "answering")[1]["echo"] == {"n": 3}
        pids = ranks.pids
        os.kill(pids[1], signal.SIGSTOP)
    assert not any(psutil.pid_exists(pid) for pid in pids)
