"""The reader of logged recompiles: real logs, mixed ranks, and whatever else somebody pastes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.recompile_lines import logged_causes, logged_compiles
from tests.probe_process import probe

ROOT = Path(__file__).parents[1]
SYMPTOM, BAD_INPUT, UNKNOWN = 1, 2, 3


def record(number: int, *, rank: int | None = None, pid: int = 411, frame: str = "forward") -> list[str]:
    tag = "" if rank is None else f"[rank{rank}]:"
    head = f"{tag}V1128 08:29:{number % 60:02}.102000 {pid} torch/_dynamo/guards.py:5396] [0/{number}] [__recompiles]"
    return [
        f"{head} Recompiling function {frame} in /opt/job/model.py:41",
        f"{head}     triggered by the following guard failure(s):",
        f"{head}     - 0/{number - 1}: self.calls == {number - 1}         # self.calls += 1  # model.py:42 in forward",
    ]


def limit(pid: int = 411) -> list[str]:
    head = f"W1128 08:30:01.783000 {pid} torch/_dynamo/convert_frame.py:1994] [0/8]"
    return [
        f"{head} torch._dynamo hit config.recompile_limit (8)",
        f"{head}    function: 'forward' (/opt/job/model.py:41)",
        f"{head}    last reason: 0/7: self.calls == 7         # self.calls += 1  # model.py:42 in forward (HINT: …)",
        f'{head} To log all recompilation reasons, use TORCH_LOGS="recompiles".',
    ]


def read(text: str, *words: str) -> tuple[int, dict[str, Any], str]:
    return probe("recompile_log", "--from", "-", *words, text=text)


def numbers(document: dict[str, Any]) -> dict[str, float]:
    return {one["name"]: one["value"] for one in document["measurements"]}


def test_recompiles_for_one_reason_with_other_numbers_are_one_cause() -> None:
    lines = [line for number in range(1, 8) for line in record(number)]
    (cause,) = logged_causes(logged_compiles("\n".join(lines)))
    assert (cause.count, cause.most, cause.processes) == (7, 7, 1)
    assert cause.first.frame == "forward"
    assert cause.first.place == "/opt/job/model.py:41"
    assert cause.first.reason == "self.calls == 0"


def test_a_limit_is_a_finding_with_its_function_and_last_reason() -> None:
    status, document, said = read("\n".join(limit()))
    assert status == SYMPTOM
    assert numbers(document)["frames_given_up"] == 1
    assert "forward (model.py:41) reached the limit (1 record of 1 process): self.calls == 7" in said
    assert "/opt/job" not in json.dumps(document)


def test_eight_ranks_that_each_recompile_once_have_no_finding() -> None:
    lines = [line for rank in range(8) for line in record(1, rank=rank, pid=500 + rank)]
    status, document, _ = read("\n".join(lines))
    assert status == 0
    assert numbers(document) == {
        "recompiles_logged": 8,
        "recompiles_of_one_cause": 1,
        "frames_given_up": 0,
        "graph_breaks": 0,
    }


def test_without_process_ids_eight_recompiles_are_unknown_and_not_a_finding() -> None:
    lines = [line.partition("[__recompiles] ")[2] for number in range(1, 9) for line in record(number)]
    status, document, said = read("\n".join(lines))
    assert status == UNKNOWN
    assert not document
    assert "its lines lack the process id" in said


def test_a_log_without_such_lines_is_unknown_unless_the_job_logged_them() -> None:
    silent = "step 1 loss 2.1\nstep 2 loss 2.0\n"
    assert read(silent)[0] == UNKNOWN
    status, document, _ = read(silent, "--logged")
    assert status == 0
    assert set(numbers(document).values()) == {0}


def test_a_log_that_is_not_there_is_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.recompile_log", "--from", "no/such.log"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == BAD_INPUT
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.system
@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("int-attribute", SYMPTOM, "self.calls == N"),
        ("static-shapes", SYMPTOM, "tensor 'x' size mismatch at index N. expected N, actual N"),
        ("none", 0, "GLOBAL_STATE changed: grad_mode"),
    ],
)
def test_what_torch_itself_logs_is_read(fault: str, status: int, reason: str) -> None:
    pytest.importorskip("torch")
    drill = subprocess.run(
        [
            sys.executable,
            "-m",
            "runner.probes.step_drill",
            "--topic",
            "recompiles",
            "--fault",
            fault,
            "--steps",
            "14",
        ],
        env={**os.environ, "TORCH_LOGS": "recompiles,graph_breaks"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    found, document, _ = read(drill.stderr)
    assert found == status, document
    assert reason in {one.first.cause[3] for one in logged_causes(logged_compiles(drill.stderr))}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 59)), max_size=20, unique=True),
    st.randoms(use_true_random=False),
)
def test_records_of_ranks_are_put_together_however_their_lines_are_mixed(
    which: list[tuple[int, int]], drawn: Any
) -> None:
    waiting = [record(number, rank=rank, pid=500 + rank) for rank, number in which]
    lines = []
    while waiting := [one for one in waiting if one]:
        lines.append(drawn.choice(waiting).pop(0))
    found = logged_compiles("\n".join(lines))
    assert sorted((one.process, one.reason) for one in found) == sorted(
        (f"[rank{rank}]:{500 + rank}", f"self.calls == {number - 1}") for rank, number in which
    )


@given(st.text(max_size=400))
def test_no_text_breaks_the_reader_and_none_is_taken_for_a_recompile(text: str) -> None:
    assert logged_compiles(text) == []


@given(st.integers(0, 400))
def test_a_log_that_was_cut_anywhere_gives_no_record_that_was_not_there(cut: int) -> None:
    whole = "\n".join([*record(1), *record(2)])
    found = logged_compiles(whole[:cut])
    assert len(found) <= 2
    assert {one.frame for one in found} <= {"forward"}


@given(st.sampled_from(["kubectl", "docker", "srun", "colour"]))
def test_what_launchers_put_before_lines_changes_nothing(launcher: str) -> None:
    before = {
        "kubectl": "2026-11-27T19:00:07.012345678Z ",
        "docker": "trainer-0  | ",
        "srun": "3: ",
        "colour": "(W pid=7) ",
    }
    plain = [line for number in range(1, 5) for line in record(number)]
    assert logged_compiles("\n".join(before[launcher] + line for line in plain)) == logged_compiles(
        "\n".join(plain)
    )


def test_a_log_with_graph_breaks_alone_does_not_say_that_nothing_recompiled() -> None:
    head = "V1128 08:29:01.102000 411 torch/_dynamo/symbolic_convert.py:5124] [1/0] [__graph_breaks]"
    breaks = f"{head} Graph break in user code at /opt/job/model.py:6\n{head} Graph Break Reason: a call\n"
    status, _, said = read(breaks)
    assert (status, "only 1 graph break" in said) == (UNKNOWN, True)
    status, document, _ = read(breaks, "--logged")
    assert (status, numbers(document)["graph_breaks"]) == (0, 1)
    assert read(breaks + "\n".join(record(1)))[0] == 0


def test_a_log_that_was_written_twice_has_each_recompile_once() -> None:
    lines = [line for number in (1, 2) for line in record(number)]
    twice = [[line, line] for line in lines]
    for text in ("\n".join(lines * 2), "\n".join(line for both in twice for line in both)):
        status, document, _ = read(text)
        assert (status, numbers(document)["recompiles_logged"]) == (0, 2)
