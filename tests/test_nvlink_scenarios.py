"""Entry 2 on eight simulated B200: in one run it names the right fault, and no other."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.entry.read import read_runbook
from runner.record.judge import judge_claims
from runner.record.model import ClaimState, Record, StepStatus
from tests.nvml import EIGHT_B200, environment
from tests.test_nccl_sources import job

# The entry looks at every process of the host.
pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
OFF = "is harmful on one node: without peer access"


def diagnose(tmp_path: Path, board: str, *steps: str, **variables: str) -> tuple[int, dict[str, Any]]:
    return run_entry(tmp_path, board, "diagnose", *steps, **variables)


def run_entry(
    tmp_path: Path, board: str, phase: str, *steps: str, **variables: str
) -> tuple[int, dict[str, Any]]:
    """A phase of the entry, run by the program itself; its exit status and its record."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("NCCL_")}
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "--data", str(tmp_path / "data"), "run", "nvlink-bandwidth",
         "--phase", phase, *(word for step in steps for word in ("--step", step)), "--json"],
        cwd=ROOT,
        env=own | environment(tmp_path, board) | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )  # fmt: skip
    (record,) = json.loads(done.stdout)
    return done.returncode, record


def said(record: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {step["id"]: (step["status"], step["reason"]) for step in record["steps"]}


def test_a_healthy_node_is_healthy_and_its_record_simulated(tmp_path: Path) -> None:
    status, record = diagnose(tmp_path, EIGHT_B200, "settings", "wiring")
    assert (status, record["outcome"], record["simulated"]) == (0, "healthy", True)
    assert record["machine"]["machine_class"] == "8xB200-180GB"
    assert {step for step, _ in said(record).values()} == {"passed"}


@pytest.mark.parametrize(
    ("board", "named"),
    [
        ("link_down 3 5\n", "GPU 3: 17 NVLinks active (down: 5), expected 18 on B200"),
        ("links 0\nancestor 30\n", "no uniform NVLink mesh (PHB × 28), expected NV18 for all pairs on B200"),
        ("fabric 2 0 0\n", "GPU 0: fabric state in progress, expected completed without error"),
    ],
)
def test_a_wiring_fault_is_named_by_the_wiring_alone(board: str, named: str, tmp_path: Path) -> None:
    status, record = diagnose(tmp_path, EIGHT_B200 + board, "settings", "wiring")
    assert (status, record["outcome"]) == (1, "symptom")
    found = said(record)
    assert found["settings"] == ("passed", None)
    assert found["wiring"][0] == "symptom"
    assert named in (found["wiring"][1] or "")


@contextlib.contextmanager
def leftover(place: str, tmp_path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """NCCL_P2P_DISABLE=1 in one place; the variables to run the entry with, and how the entry must name the place."""
    if place == "environment":
        yield {"NCCL_P2P_DISABLE": "1"}, "NCCL_P2P_DISABLE (environment)"
    elif place == "conf file":
        conf = tmp_path / "nccl.conf"
        conf.write_text("NCCL_P2P_DISABLE=1\n", encoding="utf-8")
        yield {"NCCL_CONF_FILE": str(conf)}, f"NCCL_P2P_DISABLE ({conf})"
    else:
        with job(tmp_path, NCCL_P2P_DISABLE="1") as pid:
            yield {}, f"NCCL_P2P_DISABLE (process {pid})"


@pytest.mark.parametrize("place", ["environment", "conf file", "process"])
def test_healthy_wiring_and_a_leftover_are_told_apart_and_its_place_is_named(
    place: str, tmp_path: Path
) -> None:
    with leftover(place, tmp_path) as (variables, named):
        status, record = diagnose(tmp_path, EIGHT_B200, "settings", "wiring", **variables)
    assert (status, record["outcome"]) == (1, "symptom")
    found = said(record)
    assert found["wiring"] == ("passed", None)
    assert found["settings"][0] == "symptom"
    assert (found["settings"][1] or "").startswith(f"{named} {OFF}")


def test_a_misspelt_variable_is_named_with_the_right_one(tmp_path: Path) -> None:
    status, record = diagnose(tmp_path, EIGHT_B200, "settings", "wiring", NCCL_P2P_LEVLE="NVL")
    assert status == 1
    found = said(record)
    assert found["wiring"] == ("passed", None)
    assert found["settings"][0] == "symptom"
    assert "NCCL_P2P_LEVLE (environment) is misspelt" in (found["settings"][1] or "")
    assert "did you mean NCCL_P2P_LEVEL?" in (found["settings"][1] or "")


def test_the_claim_that_a_variable_moves_the_matrix_is_decided_by_running_the_tool(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    matrix = ROOT / "tests" / "topo" / "eight_b200_with_nics.txt"
    tool.write_text(f'#!/bin/sh\n[ "$*" = "topo -m" ] && cat {matrix}\n', encoding="utf-8")
    tool.chmod(0o755)
    path = os.pathsep.join([str(tool.parent), os.environ["PATH"]])
    steps = ("topo-before", "topo-after")
    stored = run_entry(tmp_path, EIGHT_B200, "reproduce", *steps, PATH=path)[1]
    record = Record.model_validate_json(json.dumps(stored))
    assert {step.status for step in record.steps if step.id in steps} == {StepStatus.PASSED}
    entry = read_runbook(ROOT / "runbooks" / "nvlink-bandwidth.md")
    assert judge_claims(entry, record.steps, record.machine)["faq-topo-phb"][0] is ClaimState.CONTRADICTED


@pytest.mark.system
@pytest.mark.parametrize(
    ("step", "tool", "fixture", "metric"),
    [
        ("nccl-tests", "all_reduce_perf", "nccl_tests_v3.json", "bus_bandwidth"),
        ("nccl-tests", "all_reduce_perf_mpi", "nccl_tests_v3.json", "bus_bandwidth"),
        ("nvbandwidth", "nvbandwidth", "nvbandwidth.json", "copy_bandwidth"),
    ],
)
def test_the_fields_own_tools_are_run_where_they_are_and_their_json_is_read(
    step: str, tool: str, fixture: str, metric: str, tmp_path: Path
) -> None:
    """The tool's place is taken by a script that writes where the real one would: after -J, or to its output."""
    script = tmp_path / "bin" / tool
    script.parent.mkdir()
    written = ROOT / "tests" / "tools" / fixture
    script.write_text(
        "#!/bin/bash\nwhile [ $# -gt 0 ] && [ $1 != -J ]; do shift; done\n"
        f"cat {written} > ${{2:-/dev/stdout}}\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
    record = run_entry(tmp_path, EIGHT_B200, "diagnose", step, PATH=path)[1]
    (found,) = (one for one in record["steps"] if one["id"] == step)
    assert found["status"] == "passed", found
    assert metric in {one["name"] for one in found["measurements"]}


@pytest.mark.system
def test_a_tool_that_is_not_there_is_skipped_and_said_to_be_missing(tmp_path: Path) -> None:
    record = run_entry(tmp_path, EIGHT_B200, "diagnose", "nvbandwidth")[1]
    (found,) = (one for one in record["steps"] if one["id"] == "nvbandwidth")
    assert found["status"] == "skipped"
    assert "nvbandwidth is not on PATH" in found["stderr_tail"]


@pytest.mark.system
def test_the_whole_diagnosis_names_a_fabric_that_is_not_up_and_asks_no_bandwidth_of_it(
    tmp_path: Path,
) -> None:
    status, record = diagnose(tmp_path, EIGHT_B200 + "fabric 1 0 0\n")
    assert (status, record["outcome"]) == (1, "symptom")
    found = said(record)
    assert found["wiring"][0] == "symptom"
    assert found["bandwidth"][0] == "skipped"
    assert "CUDA does not start until the fabric is up" in (found["bandwidth"][1] or "")


@pytest.mark.system
def test_a_node_whose_bandwidth_cannot_be_measured_is_never_called_healthy(tmp_path: Path) -> None:
    status, record = diagnose(tmp_path, EIGHT_B200)
    assert (status, record["outcome"]) == (3, "incomplete")
    assert said(record)["bandwidth"][0] == "error"
