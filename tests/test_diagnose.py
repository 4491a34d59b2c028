"""`runbook diagnose` as its users meet it: the real program over the real entries, and over small ones."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests import nvml
from tests.test_cli import ROOT, step, write_entry
from tests.test_command import alive

# What it looks at is every process of the host: other tests that start what it would find are in this group too.
pytestmark = pytest.mark.host

CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("NCCL_", "OMP_", "MKL_", "CUDA_", "TORCH")) and name not in {"WORLD_SIZE", "RANK"}
}
LAUNCH = {
    "WORLD_SIZE": "8",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def diagnose(
    *words: str,
    before: tuple[str, ...] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
    program: tuple[str, ...] = ("-m", "runner.cli.main"),
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, *before, "diagnose", *words],
        cwd=ROOT,
        env={**CLEAN, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def first(**variables: str) -> tuple[int, dict[str, Any]]:
    done = diagnose("--json", variables=variables)
    entry: dict[str, Any] = json.loads(done.stdout)["entries"][0]
    return done.returncode, entry


def test_a_healthy_host_is_looked_at_with_all_entries_for_under_ten_seconds_of_cpu() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = diagnose("--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(said["entries"]) == len(list((ROOT / "runbooks").glob("*.md")))
    assert not any(entry["findings"] for entry in said["entries"])
    # Whatever would load a device is named with the command that runs it.
    blind = [one["why"] for entry in said["entries"] for one in entry["not_looked"]]
    assert any("`runbook run fp8-power-regression --step layers`" in why for why in blind)


def test_a_bad_nccl_environment_ranks_the_bandwidth_entry_first() -> None:
    status, entry = first(NCCL_P2P_DISABLE="1")
    assert (status, entry["entry"], entry["severity"]) == (1, "nvlink-bandwidth", "high")
    assert entry["fix"] == ["unset NCCL_P2P_DISABLE"]


def test_leftovers_of_a_launch_rank_the_rollback_entry_first_even_beside_a_bad_nccl_setting() -> None:
    status, entry = first(**LAUNCH, OMP_NUM_THREADS="1", NCCL_P2P_DISABLE="1")
    assert (status, entry["entry"]) == (1, "single-gpu-rollback")
    assert "unset WORLD_SIZE" in entry["fix"]


def test_gpus_wired_over_pcie_rank_the_bandwidth_entry_first(tmp_path: Path) -> None:
    broken = nvml.EIGHT_B200.replace("links 18", "links 0")
    status, entry = first(**nvml.environment(tmp_path, broken))
    assert (status, entry["entry"]) == (1, "nvlink-bandwidth")
    assert [finding["step"] for finding in entry["findings"]] == ["wiring"]
    assert entry["action"] == "drain"
    assert {single["kind"] for single in entry["findings"][0]["singles"]} == {"wiring-mesh"}


def test_in_a_prolog_broken_wiring_drains_the_node_and_a_job_s_environment_does_not(tmp_path: Path) -> None:
    broken = nvml.environment(tmp_path, nvml.EIGHT_B200.replace("links 18", "links 0"))
    assert diagnose("--prolog", variables=broken).returncode == 1
    done = diagnose("--prolog", variables={**LAUNCH, "NCCL_P2P_DISABLE": "1"})
    assert done.returncode == 0
    assert done.stdout.startswith("restart  ")


# Those that the look at the host makes, each with its name in pynvml.
@pytest.mark.parametrize(
    ("call", "named"),
    [
        ("nvmlInit", "nvmlInit"),
        ("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"),
        ("nvmlDeviceGetMigMode", "nvmlDeviceGetMigMode"),
    ],
)
def test_a_call_of_nvml_that_never_returns_is_named_and_holds_up_no_other_check(
    tmp_path: Path, call: str, named: str
) -> None:
    hanging = nvml.environment(tmp_path, f"{nvml.EIGHT_B200}fail {call} 9999\n")
    done = diagnose("--json", variables=hanging)
    said = json.loads(done.stdout)
    # An entry about the driver may have it as a finding.
    assert done.returncode in {1, 3}
    assert said["nvml_hung"] == [named]
    assert f"{named}: no answer within" in said["gpu_error"]
    blocked = {
        (entry["entry"], blind["step"]): blind["why"]
        for entry in said["entries"]
        for blind in entry["not_looked"]
        if blind["blocked"]
    }
    assert named in blocked["nvlink-bandwidth", "wiring"]
    looked = {(entry["entry"], name) for entry in said["entries"] for name in entry["looked"]}
    assert {("nvlink-bandwidth", "settings"), ("single-gpu-rollback", "leftovers")} <= looked


def test_a_step_learns_which_calls_hung_and_does_not_wait_for_them(tmp_path: Path) -> None:
    before = small(tmp_path, step("d", f'echo "$RUNBOOK_NVML_HUNG" > {tmp_path}/hung'))
    hanging = nvml.environment(tmp_path, f"{nvml.EIGHT_B200}fail nvmlDeviceGetMigMode 9999\n")
    assert diagnose(before=before, variables=hanging).returncode == 0
    assert (tmp_path / "hung").read_text() == "nvmlDeviceGetMigMode\n"


def test_busy_gpus_are_looked_at_and_never_loaded(tmp_path: Path) -> None:
    done = diagnose("--json", variables=nvml.environment(tmp_path, nvml.EIGHT_B200 + "processes 1\n"))
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    looked = {(entry["entry"], name) for entry in said["entries"] for name in entry["looked"]}
    assert ("nvlink-bandwidth", "wiring") in looked
    assert ("nvlink-bandwidth", "bandwidth") not in looked


# In its main thread, as a compile is: the look then sees how long it waited for a core that others had.
PEGGED = """
import hashlib, torch
data = bytes(1 << 22)
print("ready", flush=True)
while True:
    hashlib.sha256(data).digest()
"""


@pytest.fixture
def pegged() -> Iterator["subprocess.Popen[str]"]:
    """A process that has torch loaded and keeps a core busy, as a compile that never ends does."""
    with subprocess.Popen([sys.executable, "-c", PEGGED], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.system
@pytest.mark.usefixtures("pegged")
def test_a_pegged_process_with_torch_ranks_the_compile_entry_first_as_a_hint() -> None:
    status, entry = first()
    assert (status, entry["entry"], entry["state"]) == (0, "torch-compile-hang", "hint")
    assert entry["findings"] == []
    assert entry["hints"]


def test_pid_judges_the_environment_of_a_running_server() -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"PATH": "/no", **LAUNCH}
    )
    try:
        done = diagnose("--json", "--pid", str(server.pid))
    finally:
        server.communicate()
    assert done.returncode == 1
    assert json.loads(done.stdout)["entries"][0]["entry"] == "single-gpu-rollback"


def test_pid_of_nobody_is_bad_input() -> None:
    done = diagnose("--pid", "4194305")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["runbook: there is no process 4194305; ps -e lists the running ones"]


def small(tmp_path: Path, *steps: str, **kwargs: Any) -> tuple[str, ...]:
    write_entry(tmp_path / "runbooks", "\n\n".join(steps), **kwargs)
    return ("--runbooks", str(tmp_path / "runbooks"))


SYMPTOM = (
    'echo \'{"probe": "collectives", "method_version": 1, "status": "symptom", "reason": "slow",'
    ' "details": {"findings": [{"severity": "%s"}]}}\' > $RUNBOOK_RESULT'
)


ACTION = SYMPTOM.replace('"severity"', '"severity": "low", "action"')


@pytest.mark.parametrize(
    ("command", "plain", "prolog", "nagios"),
    [
        ("true", 0, 0, 0),
        ("exit 3", 3, 0, 3),
        (SYMPTOM % "medium", 1, 0, 1),
        (SYMPTOM % "critical", 1, 0, 2),
        (ACTION % "restart", 1, 0, 1),
        (ACTION % "reset", 1, 1, 2),
        (ACTION % "drain", 1, 1, 2),
        (ACTION % "replace", 1, 1, 2),
    ],
)
def test_prolog_and_nagios_have_exit_statuses_of_their_own(
    tmp_path: Path, command: str, plain: int, prolog: int, nagios: int
) -> None:
    before = small(tmp_path, step("d", command))
    assert diagnose(before=before).returncode == plain
    assert diagnose("--prolog", before=before).returncode == prolog
    assert diagnose("--format", "nagios", before=before).returncode == nagios


def test_in_a_prolog_no_fault_of_the_check_itself_drains_a_node(tmp_path: Path) -> None:
    done = diagnose("--prolog", before=("--runbooks", str(tmp_path / "nowhere")))
    assert done.returncode == 0
    assert "the checks could not run" in done.stderr
    assert diagnose(before=("--runbooks", str(tmp_path / "nowhere"))).returncode == 2


def test_steps_that_load_or_change_never_run(tmp_path: Path) -> None:
    before = small(
        tmp_path,
        step("loads", f"touch {tmp_path}/loaded", "safety=loads-device"),
        step("changes", f"touch {tmp_path}/changed", "safety=changes-host"),
    )
    assert diagnose(before=before).returncode == 3
    assert not (tmp_path / "loaded").exists()
    assert not (tmp_path / "changed").exists()


def test_entries_are_looked_at_side_by_side_under_one_deadline(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        before = small(
            tmp_path,
            step("d", f"touch {tmp_path}/begun-{number}; sleep 1000"),
            step("e", "true"),
            entry_id=f"entry-{number}",
            number=number,
        )
    # The deadline comes once all of them have begun, however slow the machine is.
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom runner.cli import main\n"
        f"here, now = Path({str(tmp_path)!r}), time.monotonic\n"
        "time.monotonic = lambda: now() + (1000 if len([*here.glob('begun-*')]) == 3 else 0)\n"
        "sys.exit(main.main())"
    )
    done = diagnose("--json", "--deadline", "200", before=before, program=("-c", program))
    assert done.returncode == 3
    # Each of them lasts until the deadline, so those that began were at work together.
    assert len(list(tmp_path.glob("begun-*"))) == 3
    said = json.loads(done.stdout)["entries"]
    whys = [[blind["why"] for blind in entry["not_looked"]] for entry in said]
    assert len(whys) == 3
    for first_why, second_why in whys:
        assert "deadline" in first_why
        assert "overall deadline had passed" in second_why


def test_an_interrupt_ends_the_look_and_leaves_nothing_alive(tmp_path: Path) -> None:
    mark = f"RUNBOOK_TEST_MARK-{os.getpid()}-{time.monotonic_ns()}"
    before = small(tmp_path, step("d", f"touch {tmp_path}/begun; : {mark}; sleep 600; true"))
    with subprocess.Popen(
        [sys.executable, "-m", "runner.cli.main", *before, "diagnose"], cwd=ROOT, stderr=subprocess.PIPE
    ) as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=400) == 130
    assert not alive(mark)


def test_prometheus_output_is_replaced_as_a_whole(tmp_path: Path) -> None:
    before = small(tmp_path, step("d", "true"))
    target = tmp_path / "runbook.prom"
    target.write_text("old")
    done = diagnose("--format", "prometheus", "--output", str(target), before=before)
    assert (done.returncode, done.stdout) == (0, "")
    assert "runbook_diagnose_exit_status 0\n" in target.read_text()
    assert [path.name for path in tmp_path.glob("*prom*")] == ["runbook.prom"]
    refused = diagnose("--output", str(tmp_path / "no" / "place"), before=before)
    assert refused.returncode == 2
    assert "cannot write" in refused.stderr


def test_a_step_of_a_look_finds_no_more_time_than_the_look_has(tmp_path: Path) -> None:
    before = small(tmp_path, step("d", '[ "${RUNBOOK_SECONDS%.*}" -lt 250 ]', "timeout=300"))
    assert diagnose("--deadline", "200", before=before).returncode == 0
