"""`runbook hang`: the answer in one sentence and a table, from live ranks and from files."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.cli import hang
from runner.cli.hang_text import print_hangs
from runner.cli.main import main
from runner.hang.findings import HangKind, HangVerdict, RankRow
from runner.hang.model import (
    CollectiveCall,
    Frame,
    GpuLoad,
    ProcessState,
    RankLook,
    RasReport,
    Recording,
    Snapshot,
    Unseen,
    XidLine,
)
from runner.hang.snapshot_json import as_document, joined_looks, merged, snapshot_in
from runner.hang.verdict import judge_hang
from tests.cluster import until
from tests.hanging_ranks import ROOT, HangingJob, hanging_job, lookalike, rank_environment
from tests.test_hang_stacks import FAULTHANDLER, PY_SPY

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def job() -> Iterator[HangingJob]:
    with hanging_job(4) as made:
        yield made


def run(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "hang", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_late_rank_of_a_live_job_is_named_in_the_first_line(job: HangingJob) -> None:
    status, out, error = run("--pid", *map(str, job.pids))
    assert (status, error) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("rank 1 (")
    assert f"pid {job.pids[1]}) has not entered all_reduce #5 of group 0, in which 3 ranks wait" in lines[0]
    assert "hold (train.py:" in lines[0]
    table = [line for line in lines if re.match(r"(1|0, 2, 3) +", line)]
    assert str(job.pids[1]) in table[0]
    assert "waits in all_reduce" in table[1]
    assert max(len(line) for line in table) <= 80
    assert "Next: runbook show nccl-collective-timeout" in lines
    assert not [line for line in lines if "flight recorder" in line or "stack" in line]


def test_all_ranks_of_the_node_are_looked_at_if_none_is_named(job: HangingJob) -> None:
    status, out, _ = run("--json", "--seconds", "0.5")
    document = json.loads(out)
    assert status == document["exit_status"] == 1
    seen = {look["pid"]: look["rank"] for look in document["snapshot"]["ranks"] if "pid" in look}
    assert {pid: seen.get(pid) for pid in job.pids} == dict(zip(job.pids, range(4), strict=True))


def test_what_the_json_says_can_be_judged_again(job: HangingJob) -> None:
    _, out, _ = run("--json", "--seconds", "0.5", "--pid", *map(str, job.pids))
    document = json.loads(out)
    snapshot = snapshot_in(document)
    assert as_document(snapshot, judge_hang(snapshot), 1) == document
    assert document["verdicts"][0]["culprits"] == [1]


def test_an_interrupt_leaves_no_program_behind_and_the_rank_running(job: HangingJob, tmp_path: Path) -> None:
    program = tmp_path / "py-spy"
    program.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids; exec sleep 1000\n")
    program.chmod(0o755)
    script = (
        "import sys; from runner.hang import spying; from runner.cli.main import main\n"
        f"spying.find_py_spy = lambda: {str(program)!r}; spying._PATIENCE_S = 0.1\n"
        f"sys.exit(main(['hang', '--seconds', '600', '--pid', '{job.pids[1]}']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as looking:
        until((tmp_path / "pids").exists, "py-spy to start")
        until(lambda: bool((tmp_path / "pids").read_text().strip()), "its pid")
        looking.send_signal(signal.SIGINT)
        _, error = looking.communicate(timeout=100)
    assert looking.returncode == 130
    assert "Traceback" not in error
    for pid in (tmp_path / "pids").read_text().split():
        assert not Path(f"/proc/{pid}").exists()
    assert job.ranks[1].poll() is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pid", "999999999"], "there is no process 999999999"),
        (["--pid", "0"], "0 is not a process id"),
        (["--pid", "1", "--all"], "not allowed with"),
        (["--seconds", "0"], "not a number of seconds"),
        (["--seconds", "nan"], "not a number of seconds"),
        (["--on", "slurm"], "--on slurm needs --job"),
        (["--on", "slurm", "--job", "7;reboot"], "is not the id of a Slurm job"),
        (["--prefix", "x"], "require --on slurm"),
        (["--dumps", ".", "--all"], "read files"),
        (["--dumps", "absent"], "absent"),
        (["--stacks", "absent"], "cannot read"),
        (["--job", "7", "--pid", "1"], "omit --pid"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["hang", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_a_node_without_ranks_is_bad_input_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "observe", lambda *_, **__: Snapshot(seconds=3, ranks=()))
    assert main(["hang"]) == 2
    assert "no rank of a torch job runs here; name a process with --pid" in capsys.readouterr().err


def dump(seq: int) -> bytes:
    entries = [
        {
            "record_id": number,
            "pg_id": 0,
            "process_group": ("0", "default_pg"),
            "collective_seq_id": number,
            "p2p_seq_id": 0,
            "op_id": number,
            "profiling_name": "gloo:all_reduce",
            "input_sizes": [[4]],
            "input_dtypes": ["Float"],
            "output_sizes": [[4]],
            "output_dtypes": ["Float"],
            "state": "scheduled",
            "retired": False,
            "is_p2p": False,
            "time_created_ns": number,
            "timeout_ms": 1000,
            "frames": [{"name": "step", "filename": "train.py", "line": 20}],
        }
        for number in range(1, seq + 1)
    ]
    return pickle.dumps({"version": "2.10", "pg_config": {}, "pg_status": {}, "entries": entries})


def test_files_of_dumps_and_stacks_are_judged_like_a_live_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps, stacks = tmp_path / "dumps", tmp_path / "stacks"
    dumps.mkdir()
    stacks.mkdir()
    for rank, seq in enumerate((7, 6, 7)):
        (dumps / f"trace_rank_{rank}").write_bytes(dump(seq))
        (stacks / f"rank{rank}.txt").write_text(
            PY_SPY if rank != 1 else FAULTHANDLER.replace("all_reduce", "x")
        )
    (stacks / "rank1.txt").write_text(
        'Process 1: python\n\nThread 1 (idle): "MainThread"\n    decode (/job/images.py:9)\n'
    )
    (stacks / "notes.txt").write_text("")
    assert main(["hang", "--dumps", str(dumps), "--stacks", str(stacks)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("rank 1 has not entered all_reduce #7 of group 0, in which 2 ranks wait")
    assert "decode (images.py:9)" in out
    assert "not seen: stack: notes.txt has no rank in its name" in out
    assert main(["hang", "--dumps", str(dumps)]) == 1
    assert main(["hang", "--stacks", str(stacks)]) == 1


def test_stacks_of_ranks_without_a_dump_count_too() -> None:
    def look(rank: int, **more: Any) -> RankLook:
        return RankLook(node="", rank=rank, **more)

    recording = Recording(version="2.10", calls=())
    stack = ((Frame(function="step", file="train.py", line=3),),)
    joined = joined_looks([look(1, recording=recording)], [look(1, stacks=stack), look(0, stacks=stack)])
    assert [(one.rank, one.recording, one.stacks) for one in joined] == [
        (0, None, stack),
        (1, recording, stack),
    ]


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([HangKind.LATE], 1),
        ([HangKind.SAME_PLACE], 1),
        ([HangKind.MOVING], 0),
        ([HangKind.UNKNOWN], 3),
        ([], 3),
        ([HangKind.MOVING, HangKind.UNKNOWN], 3),
        ([HangKind.MOVING, HangKind.JOINING], 1),
    ],
)
def test_the_exit_status_is_that_of_the_worst_job(kinds: list[HangKind], status: int) -> None:
    verdicts = [HangVerdict(job="", kind=kind, sentence="x") for kind in kinds]
    assert hang.hang_status(verdicts) == status


def printed(snapshot: Snapshot, *verdicts: HangVerdict) -> str:
    stream = io.StringIO()
    print_hangs(stream, snapshot, verdicts)
    return stream.getvalue()


def big_job() -> tuple[Snapshot, HangVerdict]:
    """64 ranks on 8 nodes; rank 13 is late."""
    looks, rows = [], []
    for rank in range(64):
        late = rank == 13
        looks.append(
            RankLook(
                node=f"node-{rank // 8}",
                rank=rank,
                pid=4000 + rank,
                state=ProcessState.SLEEPING,
                cpu_share=0.02 if late else 0.99,
                gpu=GpuLoad(
                    index=rank % 8, utilisation=0.0 if late else 1.0, power_w=95.0 if late else 210.0 + rank
                ),
                unseen=(Unseen(source="flight recorder", reason="not set up"),) if rank >= 8 else (),
            )
        )
        does = "loading data: fetch (fetch.py:54)" if late else "waits in all_reduce #4821 of group 0"
        rows.append(RankRow(rank=rank, node=f"node-{rank // 8}", pid=4000 + rank, does=does, culprit=late))
    snapshot = Snapshot(
        seconds=3,
        ranks=tuple(looks),
        xids=(XidLine(node="node-1", code=79, line="x"), XidLine(node="node-1", code=79, line="y")),
        ras=RasReport(version="2.27.3", healthy=False, findings=("rank 13 is behind",)),
        unseen=(Unseen(source="kernel log", reason="no permission"),) * 8,
    )
    verdict = HangVerdict(
        job="",
        kind=HangKind.LATE,
        culprits=(13,),
        sentence="rank 13 has not entered all_reduce",
        rows=(*[row for row in rows if row.culprit], *[row for row in rows if not row.culprit]),
        entry="nccl-collective-timeout",
    )
    return snapshot, verdict


def test_ranks_that_do_the_same_share_a_line_and_reasons_are_told_once() -> None:
    out = printed(*big_job())
    lines = [line.rstrip() for line in out.splitlines()]
    (late,) = [line for line in lines if line.startswith("13 ")]
    assert late.split()[:6] == ["13", "node-1", "4013", "2%", "0%", "95W"]
    assert [line for line in lines if line.startswith("0-12,")]
    assert len(lines) < 25
    assert "Xid 79 on node-1, 2 times: runbook match on its kernel log" in lines
    assert "NCCL RAS (2.27.3): rank 13 is behind" in lines
    assert "not seen: kernel log on 8 nodes: no permission" in lines
    assert "not seen: flight recorder of ranks 8-63: not set up" in lines
    table = lines[1 : lines.index("Next: runbook show nccl-collective-timeout")]
    assert max(map(len, table)) <= 80


def test_control_sequences_of_a_program_do_not_reach_the_terminal() -> None:
    row = RankRow(rank=0, node="n\x1b[2J", pid=1, does="in [red]\x1b]0;title\x07here[/red]", culprit=True)
    verdict = HangVerdict(job="", kind=HangKind.LATE, sentence="a\x1b[31m\nb", rows=(row,))
    out = printed(Snapshot(seconds=1, ranks=()), verdict)
    assert "\x1b" not in out
    assert "[red]" in out
    assert out.startswith("a b\n")


def test_several_jobs_are_told_apart_by_where_their_ranks_meet() -> None:
    verdicts = [
        HangVerdict(job=f"host:{port}", kind=HangKind.UNKNOWN, sentence="nothing") for port in (29500, 29600)
    ]
    out = printed(Snapshot(seconds=1, ranks=()), *verdicts)
    assert "Job host:29500:\nunknown: nothing\n" in out
    assert "Job host:29600:\nunknown: nothing\n" in out


def test_a_document_keeps_the_newest_calls_of_a_recording() -> None:
    calls = tuple(CollectiveCall(group="0", seq=seq, op="all_reduce") for seq in range(2000))
    recording = Recording(version="2.10", calls=calls)
    snapshot = Snapshot(seconds=1, ranks=(RankLook(node="", rank=0, before=recording, recording=recording),))
    (look,) = snapshot_in(as_document(snapshot, (), 3)).ranks
    assert look.recording
    assert look.before
    assert (look.recording.calls[-1], look.before.calls[-1]) == (calls[-1], calls[-1])
    assert (len(look.recording.calls), len(look.before.calls)) == (500, 16)


def test_snapshots_of_nodes_become_one_of_the_job() -> None:
    snapshot, _ = big_job()
    halves = [
        snapshot.model_copy(update={"ranks": snapshot.ranks[:32], "ras": None}),
        snapshot.model_copy(update={"ranks": snapshot.ranks[32:]}),
    ]
    whole = merged(halves)
    assert whole.ranks == snapshot.ranks
    assert whole.ras == snapshot.ras
    assert len(whole.xids) == 4


def test_only_ranks_of_the_named_slurm_job_are_looked_at(tmp_path: Path) -> None:
    # Ids that no other test of this host has at the same time.
    job, another = f"71{os.getpid()}", f"72{os.getpid()}"
    told = rank_environment(0, 1, 1)
    mine, other = told | {"SLURM_JOB_ID": job}, told | {"SLURM_JOB_ID": another}
    with lookalike(tmp_path, mine) as wanted, lookalike(tmp_path, other):
        _, out, _ = run("--json", "--seconds", "0.1", "--job", job)
        assert [look["pid"] for look in json.loads(out)["snapshot"]["ranks"]] == [wanted.pid]
    status, out, _ = run("--json", "--seconds", "0.1", "--job", job)
    assert (status, json.loads(out)["snapshot"]["ranks"]) == (3, [])
    status, _, error = run("--seconds", "0.1", "--job", job)
    assert (status, error.count("\n")) == (2, 1)
    assert f"in Slurm job {job}" in error


def test_the_job_goes_on_unharmed_after_all_this(job: HangingJob) -> None:
    # The last test of this module: the others looked at this job many times.
    assert job.release() == [0] * 4
