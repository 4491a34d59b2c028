"""Real ranks with real faults. The ranks' numbers and steps come from seeds, so each test can be run again alike."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.base.errors import InputError
from runner.kit.drill import job
from runner.kit.drill.injection import chosen
from runner.kit.drill.rendezvous_faults import RendezvousEnding
from runner.kit.probe import CRASHED, NOT_APPLICABLE, OK, SYMPTOM
from runner.probes.rank_drill import PROBE

main = PROBE.main
# Guards against a hang only; nothing is judged by it.
HANG_S = 500
needs_two_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="a neighbour on one rank's core needs two cores"
)


def drill(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status and the document of a drill over gloo; it leaves no process behind."""
    command = [sys.executable, "-m", "runner.probes.rank_drill", "--backend", "gloo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert done.returncode in {OK, SYMPTOM}, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def values(document: Mapping[str, Any], name: str) -> list[float]:
    return [found["value"] for found in document["measurements"] if found["name"] == name]


def found_as_injected(document: Mapping[str, Any]) -> bool:
    return values(document, "culprit_named") == [1] and values(document, "wrong_certain") == [0]


def test_a_skipped_collective_is_found_and_every_rank_complains() -> None:
    status, document = drill("--fault", "skip", "--ranks", "3", "--seed", "1")
    assert status == SYMPTOM
    assert found_as_injected(document), document["details"]
    # The rank in the error is not the culprit: all of them raise.
    assert values(document, "ranks_complaining") == [3]
    assert values(document, "survived_timeout") == [0]
    [seen] = document["details"]["drills"]
    assert seen["source"] == "live"
    assert seen["culprits"] == [chosen("skip", 1, 3).rank]
    assert all("Error" in word for word in seen["last_words"])


def test_a_late_rank_is_found_and_the_job_goes_on() -> None:
    status, document = drill("--fault", "late", "--ranks", "2")
    assert status == SYMPTOM
    assert found_as_injected(document), document["details"]
    assert values(document, "survived_timeout") == [1]
    assert values(document, "ranks_complaining") == [0]


def test_another_size_is_found_in_the_dumps_of_those_that_are_left() -> None:
    """gloo aborts a neighbour of the culprit in C++, which leaves no dump."""
    status, document = drill("--fault", "shape", "--ranks", "3", "--seed", "1")
    assert status == SYMPTOM
    assert found_as_injected(document), document["details"]
    [seen] = document["details"]["drills"]
    assert seen["source"] == "dumps"
    aborted = [word for word in seen["last_words"] if word.startswith("SIGABRT")]
    assert len(aborted) == 1
    assert "Received data size doesn't match expected size" in aborted[0]


def test_a_gradient_with_a_nan_is_traced_to_its_rank_though_all_ranks_have_it_after() -> None:
    status, document = drill("--fault", "nan", "--ranks", "2", "--seed", "1")
    assert status == SYMPTOM
    assert found_as_injected(document)
    assert values(document, "nonfinite_ranks") == [1]
    assert values(document, "nonfinite_ranks_after") == [2]


def test_in_healthy_ranks_nothing_is_found() -> None:
    status, document = drill("--fault", "none", "--ranks", "2")
    assert status == OK, document["reason"]
    assert values(document, "drill_faults") == values(document, "slow_ranks") == [0]
    assert values(document, "wrong_certain") == [0]
    [seen] = document["details"]["drills"]
    assert seen["look"]["kind"] == "moving"
    assert len(values(document, "compute_time")) == 2


_TRIES = 4


@needs_two_cores
def test_the_rank_with_a_neighbour_is_slow_and_waits_least() -> None:
    for seed in range(_TRIES):
        status, document = drill("--fault", "neighbour", "--ranks", "2", "--seed", str(seed))
        assert values(document, "wrong_certain") == [0]
        # Beside other work the difference may not be steady enough for a verdict, and then none is given.
        if status == SYMPTOM:
            break
    assert status == SYMPTOM
    assert found_as_injected(document), document["measurements"]
    assert values(document, "least_wait_is_slowest") == [1]
    by_role = {
        found["labels"]["role"]: found["value"]
        for found in document["measurements"]
        if found["name"] == "compute_time"
    }
    assert by_role["culprit"] > by_role["other"]


def test_no_name_and_no_listener_end_with_the_same_words() -> None:
    status, document = drill("--fault", "unknown-host", "--timeout", "1")
    assert status == SYMPTOM
    assert values(document, "same_message") == [1]
    assert "The client socket has timed out" in document["details"]["message"]
    # Only the warnings before tell the name from the port.
    assert "gai error" in " ".join(document["details"]["warnings"])
    assert "gai error" not in " ".join(document["details"]["endings"]["dead-port"]["warnings"])


def test_a_held_port_fails_at_once_and_says_so() -> None:
    status, document = drill("--fault", "held-port")
    assert status == SYMPTOM
    assert "EADDRINUSE" in document["details"]["message"]


def test_a_world_larger_than_its_ranks_says_how_many_came() -> None:
    status, document = drill("--fault", "large-world", "--timeout", "2")
    assert status == SYMPTOM
    assert "2/3 clients joined" in document["details"]["message"]
    assert values(document, "rendezvous_failure_time")[0] >= 2


def test_messages_are_the_same_but_for_their_addresses_and_numbers() -> None:
    said = "timed out after 4000ms while trying to connect to (a.invalid, 1)."
    one = RendezvousEnding("unknown-host", said, (), 1.0)
    other = said.replace("4000", "4001").replace("a.invalid, 1", "10.0.0.1, 2")
    assert one.worded_like(RendezvousEnding("dead-port", other, (), 1.0))
    assert not one.worded_like(RendezvousEnding("dead-port", "refused", (), 1.0))
    assert not RendezvousEnding("unknown-host", "", (), 1.0).worded_like(
        RendezvousEnding("dead-port", "", (), 1.0)
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ranks", "1"], "two ranks or more"),
        (["--seed", "-1"], "--seed must be zero or more"),
        (["--repeat", "0"], "--repeat must be above zero"),
        (["--timeout", "0"], "--timeout must be above zero"),
        (["--steps", "3"], "--steps must be at least 10"),
        (["--steps", "99999999999"], "--steps must be at most 100,000"),
        (["--ranks", "100000"], "--ranks must be at most 256"),
        (["--repeat", "99999999999"], "--repeat must be at most 1,000"),
        (["--timeouts", "1", "2"], "--timeouts takes"),
        (["--fault", "skip", "--timeouts", "0"], "--timeouts takes"),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--backend", "gloo", *arguments]) == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_one_gpu_has_no_second_rank_for_nccl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "visible_count", lambda: 1)
    monkeypatch.setattr(job, "usable_gpus", lambda: 1)
    assert main(["--fault", "skip"]) == NOT_APPLICABLE
    assert "ranks over NCCL need two GPUs" in json.loads(capsys.readouterr().out)["reason"]


def test_without_a_gpu_there_is_no_rank_for_nccl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "usable_gpus", lambda: 0)
    assert main(["--fault", "skip", "--backend", "nccl"]) == NOT_APPLICABLE
    assert "none is visible; --backend gloo" in json.loads(capsys.readouterr().out)["reason"]


def test_more_ranks_over_nccl_than_gpus_are_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "visible_count", lambda: 4)
    monkeypatch.setattr(job, "usable_gpus", lambda: 4)
    assert main(["--fault", "skip", "--ranks", "5"]) == InputError.exit_status
    assert "NCCL needs a GPU for each; 4 are visible" in capsys.readouterr().err


def test_without_torch_the_probe_says_so_before_it_starts_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["--backend", "gloo", "--fault", "skip"]) == CRASHED
    assert "torch is not installed" in capsys.readouterr().err


@pytest.mark.system
@pytest.mark.parametrize("fault", ["skip", "op", "shape", "late", "stop"])
@pytest.mark.parametrize("seed", ["0", "1"])
def test_four_ranks_with_a_fault_are_judged_rightly(fault: str, seed: str) -> None:
    status, document = drill("--fault", fault, "--ranks", "4", "--seed", seed, "--look-only")
    assert status == SYMPTOM
    assert found_as_injected(document), document["details"]


@pytest.mark.system
@needs_two_cores
def test_four_ranks_with_a_neighbour_are_judged_rightly() -> None:
    status, document = drill("--fault", "neighbour", "--ranks", "4")
    assert status == SYMPTOM
    assert found_as_injected(document), document["measurements"]


@pytest.mark.system
def test_a_larger_timeout_helps_a_late_rank_and_not_a_skipped_call() -> None:
    for fault, survived in (("skip", [0, 0]), ("late", [0, 1])):
        _, document = drill("--fault", fault, "--ranks", "2", "--timeouts", "5", "25", "--lateness", "12")
        assert values(document, "survived_timeout") == survived


@pytest.mark.system
def test_sigterm_ends_the_ranks_of_a_drill_also_a_stopped_one() -> None:
    command = [sys.executable, "-m", "runner.probes.rank_drill", "--backend", "gloo", "--fault", "stop"]
    probe = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    ranks = _once_one_is_stopped(probe)
    probe.terminate()
    probe.communicate(timeout=HANG_S)
    assert probe.returncode == 128 + signal.SIGTERM
    assert not psutil.wait_procs(ranks, timeout=100)[1]


@pytest.mark.system
def test_a_killed_drill_leaves_no_rank_behind_also_no_stopped_one() -> None:
    command = [sys.executable, "-m", "runner.probes.rank_drill", "--backend", "gloo", "--fault", "stop"]
    probe = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ranks = _once_one_is_stopped(probe)
    probe.kill()
    probe.wait(HANG_S)
    assert not psutil.wait_procs(ranks, timeout=100)[1]


def _once_one_is_stopped(probe: "subprocess.Popen[Any]") -> list[psutil.Process]:
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and probe.poll() is None:
        ranks = psutil.Process(probe.pid).children(recursive=True)
        for rank in ranks:
            try:
                if rank.status() == psutil.STATUS_STOPPED:
                    return ranks
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)
    pytest.fail("no rank stopped")


def test_a_temporary_folder_that_is_too_long_for_sockets_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / ("l" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert main(["--backend", "gloo", "--fault", "skip"]) == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert "too long for the sockets of the ranks; set TMPDIR" in line
    assert list(long.iterdir()) == []
