import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.base.errors import InputError
from runner.base.stats import FEWEST_FOR_BOOTSTRAP
from runner.kit import collective_timing
from runner.kit.budget import VARIABLE
from runner.kit.collective_comparison import _channels, scrubbed
from runner.kit.collective_timing import CollectiveJob, _in_rounds, bus_factor, ranks_of, whole_size
from runner.kit.nccl.log import Transport
from runner.kit.nccl.settings import NcclSetting, Origin
from runner.kit.probe import CRASHED, NOT_APPLICABLE
from runner.probes.collectives import OPS, PROBE
from tests.nvml import EIGHT_B200
from tests.nvml import environment as nvml_environment

main = PROBE.main

PROBE_COMMAND = [sys.executable, "-m", "runner.probes.collectives"]
# Guards against a hang only; nothing is judged by it.
HANG_S = 400


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROBE_COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
        env=dict(os.environ) | dict(environment or {}),
    )


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def named(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [found for found in document["measurements"] if found["name"] == name]


def test_where_the_time_is_over_the_rest_of_the_turns_is_left_out_and_said() -> None:
    done = run(
        "--op", "all_reduce", "--sizes", "4KiB", "--ranks", "2", "--iterations", "1000", "--backend", "gloo",
        environment={VARIABLE: "1e-9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (bandwidth,) = named(document_of(done), "bus_bandwidth")
    taken = sum(_in_rounds(1000)[:FEWEST_FOR_BOOTSTRAP])
    assert len(bandwidth["samples"]) == taken
    assert f"ran {taken} of 1000 iterations: time limit" in done.stderr


@pytest.fixture(scope="module")
def two_ranks() -> dict[str, Any]:
    done = run(
        "--op", *OPS, "--sizes", "4KiB", "100KB", "--ranks", "2", "--iterations", "6", "--backend", "gloo"
    )
    assert done.returncode == 0, done.stderr
    return document_of(done)


def test_every_collective_gives_right_results_over_two_ranks(two_ranks: dict[str, Any]) -> None:
    wrong = named(two_ranks, "wrong_elements")
    assert len(wrong) == len(OPS) * 2 + 1
    assert {found["value"] for found in wrong} == {0}


def test_bandwidths_follow_from_the_times_that_are_kept(two_ranks: dict[str, Any]) -> None:
    buses = {json.dumps(found["labels"]): found for found in named(two_ranks, "bus_bandwidth")}
    times = {json.dumps(found["labels"]): found for found in named(two_ranks, "collective_time")}
    assert len(buses) == len(OPS) * 2
    for labels, bus in buses.items():
        own = bus["labels"]
        assert bus["unit"] == "B/s"
        assert len(bus["samples"]) == 6
        factor = bus_factor(own["op"], own["ranks"])
        expected = [own["bytes"] * factor / seconds for seconds in times[labels]["samples"]]
        assert bus["samples"] == pytest.approx(expected)


def test_the_slow_end_of_the_times_stands_beside_their_middle(two_ranks: dict[str, Any]) -> None:
    times = {json.dumps(found["labels"]): found for found in named(two_ranks, "collective_time")}
    slow = {json.dumps(found["labels"]): found for found in named(two_ranks, "collective_time_p95")}
    assert slow.keys() == times.keys()
    for labels, found in slow.items():
        assert found["statistic"] == "p95"
        assert times[labels]["value"] <= found["value"] <= max(times[labels]["samples"])


def test_a_caller_environment_is_compared_with_a_scrubbed_one_in_the_same_run() -> None:
    done = run(
        "--ranks", "2", "--sizes", "64KiB", "--backend", "gloo", "--compare-environment",
        environment={"NCCL_P2P_DISABLE": "1"},
    )  # fmt: skip
    document = document_of(done)
    (ratio,) = named(document, "environment_ratio")
    assert len(ratio["samples"]) == 10
    assert {found["labels"]["arm"] for found in named(document, "bus_bandwidth")} == {"caller", "clean"}
    assert document["details"]["settings_left_out_of_clean"] == ["NCCL_P2P_DISABLE"]


@pytest.mark.system
def test_four_ranks_give_right_results_where_pieces_are_uneven() -> None:
    done = run(
        "--op", *OPS, "--sizes", "1000", "1MB", "--ranks", "4", "--iterations", "3", "--backend", "gloo"
    )
    assert done.returncode == 0, done.stderr
    assert {found["value"] for found in named(document_of(done), "wrong_elements")} == {0}


def start_endless() -> subprocess.Popen[str]:
    many = ["--sizes", "4MiB", "--ranks", "2", "--iterations", "1000000", "--backend", "gloo"]
    return subprocess.Popen(
        [*PROBE_COMMAND, *many, "--timeout", str(HANG_S)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rank_process(probe: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The process of a rank, once it has begun to import torch or has come further."""
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline and probe.poll() is None:
        for child in psutil.Process(probe.pid).children(recursive=True):
            try:
                if child.environ().get("RANK") == str(rank) and child.cpu_times().user > 1:
                    return child
            except psutil.Error:
                continue
        time.sleep(0.1)
    pytest.fail("the rank never came up")


def test_a_killed_rank_is_named_and_none_is_left() -> None:
    probe = start_endless()
    victim = rank_process(probe, 1)
    ranks = psutil.Process(probe.pid).children(recursive=True)
    victim.kill()
    _, errors = probe.communicate(timeout=HANG_S)
    assert probe.returncode == 3
    assert "rank 1 (caller) died while" in errors
    assert "Traceback" not in errors
    assert not psutil.wait_procs(ranks, timeout=100)[1]


@pytest.mark.system
def test_a_stopped_rank_is_named_at_the_deadline() -> None:
    many = [
        "--sizes",
        "4MiB",
        "--ranks",
        "2",
        "--iterations",
        "1000000",
        "--backend",
        "gloo",
        "--timeout",
        "45",
    ]
    probe = subprocess.Popen(
        [*PROBE_COMMAND, *many], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    rank_process(probe, 1).send_signal(signal.SIGSTOP)
    _, errors = probe.communicate(timeout=HANG_S)
    assert probe.returncode == 3
    assert "rank 1 hung (process stopped) (caller) by the deadline" in errors


@pytest.mark.system
def test_sigterm_ends_the_ranks_too() -> None:
    probe = start_endless()
    rank_process(probe, 0)
    ranks = psutil.Process(probe.pid).children(recursive=True)
    probe.terminate()
    probe.communicate(timeout=HANG_S)
    assert probe.returncode == 128 + signal.SIGTERM
    assert not psutil.wait_procs(ranks, timeout=100)[1]


def test_a_missing_element_is_counted(tmp_path: Path) -> None:
    program = f"""
import torch, torch.distributed as dist
from runner.kit.collectives_worker import Collective
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=0, world_size=1)
class Broken(Collective):
    def run(self):
        super().run()
        self.sent[7] += 1
print(Collective("all_reduce", 4096, torch.device("cpu")).wrong_elements(),
      Broken("all_reduce", 4096, torch.device("cpu")).wrong_elements())
"""
    environment = dict(os.environ) | {"GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
        env=environment,
    )
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_one_rank_is_not_applicable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ranks", "1", "--backend", "gloo"]) == NOT_APPLICABLE
    assert json.loads(capsys.readouterr().out)["status"] == "not_applicable"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ranks", "2", "--backend", "nccl", "--sizes", "banana"],
        ["--ranks", "2", "--backend", "gloo", "--sizes", "4"],
        ["--ranks", "-1", "--backend", "gloo"],
        ["--ranks", "4096", "--backend", "nccl"],
    ],
)
def test_bad_input_ends_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == InputError.exit_status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_port_in_use_ends_with_one_line_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--ranks", "2", "--backend", "gloo", "--port", str(port)]) == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on port {port}" in line


@pytest.mark.parametrize(
    ("op", "ranks", "factor"),
    [("all_reduce", 8, 1.75), ("all_gather", 8, 0.875), ("all_to_all", 2, 0.5), ("broadcast", 8, 1.0)],
)
def test_bus_factors_are_those_of_nccl_tests(op: str, ranks: int, factor: float) -> None:
    assert bus_factor(op, ranks) == factor


def test_the_systems_file_is_overruled_in_a_clean_environment_but_for_what_describes_the_system() -> None:
    in_files = [
        NcclSetting("NCCL_P2P_DISABLE", "1", "/etc/nccl.conf", Origin.FILE),
        NcclSetting("NCCL_IB_HCA", "mlx5", "/etc/nccl.conf", Origin.FILE),
        NcclSetting("NCCL_ALGO", "Ring", "~/.nccl.conf", Origin.FILE),
    ]
    clean = scrubbed({"NCCL_P2P_DISABLE": "1"}, in_files)
    assert clean == {"NCCL_P2P_DISABLE": "", "NCCL_CONF_FILE": os.devnull}


@pytest.mark.parametrize("fabric", ["fabric 1 0 0", "fabric_gpu 6 2 0 0"])
def test_bandwidth_is_not_asked_for_before_the_fabric_is_up(fabric: str, tmp_path: Path) -> None:
    done = run(environment=nvml_environment(tmp_path, f"{EIGHT_B200}{fabric}\n"))
    assert done.returncode == NOT_APPLICABLE
    assert "CUDA does not start until the fabric is up: GPU" in done.stderr


def test_gpus_that_torch_cannot_use_are_an_error_that_names_it(tmp_path: Path) -> None:
    done = run(
        "--sizes", "1MiB", environment=nvml_environment(tmp_path, EIGHT_B200.replace("count 8", "count 2"))
    )
    assert done.returncode == 3
    assert "failed while joining the group" in done.stderr
    assert "Traceback" not in done.stderr


def test_ranks_over_nccl_log_their_connections_and_arms_meet_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(collective_timing, "World", lambda *arguments: started.append(arguments))
    job = CollectiveJob(("all_reduce",), (1024,), 2, "nccl", 1, 0, 60.0, port=4000)
    for arm in ("caller", "clean"):
        ranks_of(job, arm, {"NCCL_DEBUG": "WARN"}, tmp_path / arm, 0.0)
    environments = [arguments[2] for arguments in started]
    assert [environment["NCCL_DEBUG"] for environment in environments] == ["INFO", "INFO"]
    folders = [Path(environment["NCCL_DEBUG_FILE"]).parent for environment in environments]
    assert folders == [tmp_path / "caller", tmp_path / "clean"]
    assert [arguments[5] for arguments in started] == [4000, 4001]


def test_the_transport_of_each_arm_is_a_measurement() -> None:
    job = CollectiveJob(("all_reduce",), (1024,), 2, "nccl", 1, 0, 60.0, port=None)
    found = _channels({"caller": Transport({"SHM/direct": 3}, None), "clean": None}, job)
    assert [(one.name, one.value, one.labels["transport"], one.labels["arm"]) for one in found] == [
        ("nccl_channels", 3, "SHM/direct", "caller")
    ]


def test_scrubbing_takes_only_what_steers_transport() -> None:
    clean = scrubbed({"NCCL_P2P_DISABLE": "1", "GLOO_X": "1", "TORCH_NCCL_X": "1", "PATH": "/bin"})
    assert clean == {"PATH": "/bin", "NCCL_CONF_FILE": os.devnull}


def test_turns_add_up_to_the_iterations_asked_for() -> None:
    assert [sum(_in_rounds(iterations)) for iterations in (1, 7, 20, 1001)] == [1, 7, 20, 1001]
    assert max(_in_rounds(1001)) <= 64


def test_only_collectives_of_pieces_round_a_size_up() -> None:
    assert whole_size("all_reduce", 1000, 3) == 1000
    assert whole_size("all_gather", 1000, 3) == 1008


def test_the_parser_needs_no_torch() -> None:
    assert PROBE.parser().parse_args(["--op", "all_gather"]).op == ["all_gather"]
    program = "import sys, runner.probes.collectives as c; c.PROBE.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_torch_the_probe_says_so_before_it_starts_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None hides an installed module from `find_spec` and from imports.
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["--backend", "gloo", "--ranks", "2"]) == CRASHED
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("collectives: ")]
    assert line.startswith("collectives: torch is not installed; start runbook with a Python that has it")
