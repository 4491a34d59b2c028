"""What `runbook hang` makes of absurd numbers, endless names and other input that no job means."""

import io
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.base.processes import stat_of
from runner.base.words import ranges
from runner.cli.hang_text import print_hangs
from runner.cli.main import main
from runner.hang import verdict as hang_verdict
from runner.hang.asking import ask_recording
from runner.hang.findings import HangKind, HangVerdict, RankRow
from runner.hang.model import (
    MOST_RANKS,
    CallState,
    CollectiveCall,
    Group,
    RankLook,
    Recording,
    Snapshot,
    Unseen,
)
from runner.hang.rank_process import RankProcess
from runner.hang.ranks_here import find_ranks
from runner.hang.standing import RankStanding, members_of
from runner.hang.verdict import judge_hang
from tests.hanging_ranks import lookalike, rank_environment
from tests.test_hang_observe import me, served
from tests.test_hang_stacks import PY_SPY
from tests.test_hang_words import COMPUTING, IN_ALL_REDUCE, look, waiting

pytestmark = pytest.mark.host


def judged(*looks: RankLook) -> HangVerdict:
    (verdict,) = judge_hang(Snapshot(seconds=3.0, ranks=looks))
    return verdict


@pytest.mark.parametrize("number", ["-1", "1000000000", "999999999", "9" * 5000])
def test_a_number_that_no_job_has_says_nothing(number: str) -> None:
    told = rank_environment(0, 2, 1) | {"WORLD_SIZE": number, "LOCAL_RANK": number}
    process = RankProcess(1, 1, told)
    assert (process.rank, process.world_size, process.local_rank) == (0, None, None)
    assert RankProcess(1, 1, told | {"WORLD_SIZE": str(MOST_RANKS)}).world_size == MOST_RANKS


@pytest.mark.parametrize("size", ["999999999", str(MOST_RANKS)])
def test_more_ranks_than_a_node_runs_are_not_called_gone(size: str, tmp_path: Path) -> None:
    with lookalike(
        tmp_path, rank_environment(0, 2, 1) | {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    ) as only:
        assert find_ranks([only.pid], "here").gone == ()


def test_a_worker_server_that_nests_without_end_is_a_reason(tmp_path: Path) -> None:
    def nested(_: str, line: Any) -> None:
        line.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 500_000)

    with served(tmp_path / "socket", nested):
        found = ask_recording(me(TORCH_WORKER_SERVER_SOCKET=str(tmp_path / "socket")), 100.0)
    assert isinstance(found, Unseen)
    assert "the answer of its worker server is nested too deeply" in found.reason


def test_a_rank_that_ends_before_it_is_asked_is_a_reason_whatever_its_paths() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    stat = stat_of(pid)
    assert stat
    os.waitpid(pid, 0)
    told = {"RANK": "0", "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": "relative", "TORCH_FR_DUMP_TEMP_FILE": "relative"}
    assert isinstance(ask_recording(RankProcess(pid, stat.started, told), 100.0), Unseen)
    told["TORCH_WORKER_SERVER_SOCKET"] = "relative"
    assert isinstance(ask_recording(RankProcess(pid, stat.started, told), 100.0), Unseen)


def entry(**more: Any) -> Mapping[str, Any]:
    return {"profiling_name": "gloo:all_reduce", "collective_seq_id": 1, "pg_id": 0, **more}


def test_endless_names_in_a_dump_end_in_a_short_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in range(3):
        made = entry(
            profiling_name=f"gloo:{rank}" + "x" * 5000,
            process_group=("y" * 5000, "z" * 5000),
            input_dtypes=["d" * 5000] * 9,
            frames=[{"name": "f" * 5000, "filename": "/g" * 5000, "line": 1}],
        )
        (tmp_path / f"fr_rank_{rank}").write_bytes(pickle.dumps({"version": "2.10", "entries": [made]}))
    assert main(["hang", "--dumps", str(tmp_path)]) == 1
    assert len(capsys.readouterr().out.splitlines()[0]) < 3000


def test_every_second_rank_of_a_large_job_is_not_listed_in_the_sentence() -> None:
    verdict = judged(*(look(rank, world_size=20_000, stacks=(IN_ALL_REDUCE,)) for rank in range(0, 6000, 2)))
    assert verdict.kind is HangKind.UNKNOWN
    assert len(verdict.sentence) < 500
    assert "more range" in verdict.sentence


def test_of_many_ranges_the_first_ones_are_named() -> None:
    assert ranges(range(0, 100, 2), 3) == "0, 2, 4 and 47 more ranges"
    assert ranges([3, 1, 2, 9, 7, 6]) == "1-3, 6, 7, 9"
    assert ranges([]) == ""


def test_the_members_of_a_group_are_looked_up_once_and_not_once_a_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def members(group: str, ranks: Mapping[int, RankStanding]) -> frozenset[int]:
        asked.append(group)
        return members_of(group, ranks)

    def recorded(last: int) -> Recording:
        calls = [
            CollectiveCall(group="0", seq=seq, op="all_reduce", backend="nccl") for seq in range(1, last + 1)
        ]
        calls[:1] = [calls[0].model_copy(update={"state": CallState.COMPLETED})]
        return Recording(
            version="2.10", calls=tuple(calls), groups={"0": Group(name="0", ranks=tuple(range(200)))}
        )

    monkeypatch.setattr(hang_verdict, "members_of", members)
    verdict = judged(
        *(look(rank, world_size=200, recording=recorded(1 if rank == 7 else 2)) for rank in range(200))
    )
    assert (verdict.kind, verdict.culprits) == (HangKind.LATE, (7,))
    assert len(asked) <= 2


def test_ranks_that_ran_between_two_waits_are_not_taken_for_blocked_ones() -> None:
    late = look(3, stacks=(COMPUTING,) * 3, still=False, cpu_share=1.0)

    def waiters(**more: object) -> list[RankLook]:
        seen = {"stacks": (IN_ALL_REDUCE,) * 3, "still": False, "cpu_share": 0.02, **more}
        return [look(rank, **seen) for rank in range(3)]

    verdict = judged(*waiters(), late)
    assert (verdict.kind, verdict.culprits) == (HangKind.UNKNOWN, ())
    assert verdict.sentence.startswith("ranks 0-2 ran between waits, so the job may go on; look longer")
    blocked = judged(*map(waiting, range(3)), late)
    assert (blocked.kind, blocked.culprits, blocked.certain) == (HangKind.LATE, (3,), True)
    # A thread that polls runs all the time, and so may one that waits for its GPU.
    for more in ({"cpu_share": 0.9}, {"gpu": {"index": 0}}):
        assert judged(*waiters(**more), late).culprits == (3,)


@pytest.mark.parametrize("name", [b"rank\xff0.txt", b"\xff.txt", b"rank0\x1b[31m\n.txt"])
def test_names_of_files_that_no_terminal_shows_are_escaped(
    name: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / os.fsdecode(name)).write_text("nothing")
    assert main(["hang", "--stacks", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "rank1.txt").write_text(PY_SPY)
    assert main(["hang", "--json", "--stacks", str(tmp_path)]) == 1
    (unseen,) = json.loads(capsys.readouterr().out)["snapshot"]["unseen"]
    assert "\\x" in unseen["reason"] or "\\udcff" in unseen["reason"]


def test_a_folder_whose_name_has_line_ends_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--stacks", "--dumps"):
        assert main(["hang", option, "/absent\x1b[31m\nx"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_many_spans_of_ranks_leave_room_for_what_they_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in range(60):
        made = [entry(collective_seq_id=seq) for seq in range(1, 3 if rank % 2 else 2)]
        (tmp_path / f"fr_rank_{rank}").write_bytes(pickle.dumps({"version": "2.10", "entries": made}))
    assert main(["hang", "--dumps", str(tmp_path)]) == 1
    (late,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("0, 2, … (30)")]
    assert late.split("(30)")[1].strip() == "last called all_reduce #1 of group 0"


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_a_narrow_terminal_shows_what_a_rank_does_rather_than_the_rest(width: int) -> None:
    does = "in the program: wait_for_the_next_batch (train.py:3123)"
    row = RankRow(rank=13, node="gpu-node-0137", pid=4194303, does=does, culprit=True)
    seen = look(13, node=row.node, pid=row.pid, cpu_share=0.02)
    verdict = HangVerdict(job=seen.job, kind=HangKind.LATE, sentence="x", rows=(row,))
    stream = io.StringIO()
    print_hangs(stream, Snapshot(seconds=3, ranks=(seen,)), (verdict,), width=width)
    _, heading, *lines = stream.getvalue().splitlines()
    assert max(map(len, (heading, *lines))) <= max(width, 10)
    assert len(lines) <= (20 if width == 10 else 3)
    assert ("gpu-node-0137" in lines[0]) is (width >= 80)
    assert "".join(lines).replace(" ", "").startswith("13")
