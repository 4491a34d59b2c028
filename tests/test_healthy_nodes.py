"""Whatever is judged on a healthy node: nothing has to be done. A false alarm is a fault of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from runner.kit import gpu_state, host_paths
from tests import nvml
from tests.nvml.healthy import HEALTHY_NODES

ROOT = Path(__file__).parents[1]

# All groups of one node in one process, one after the other, as the probe reads them.
SWEEP = """
import argparse, json, sys
from runner.base.errors import RunbookError
from runner.kit.gpu_state import gpu_findings
from runner.kit.probe import NotApplicableError
from runner.kit.running import reporting
from runner.probes.gpu_state import PROBE

said = {}
with reporting(PROBE):
    for group in sys.argv[1:]:
        try:
            found = gpu_findings(PROBE.parser().parse_args(["--group", group]))
        except NotApplicableError as error:
            said[group] = {"not_applicable": str(error)}
        except RunbookError as error:
            said[group] = {"unknown": str(error)}
        else:
            faults = [one for one in found.details["findings"] if one["action"] != "keep"]
            said[group] = {"status": found.status, "faults": faults}
print(json.dumps(said))
"""


def there(package: str, groups: tuple[str, ...]) -> list[str]:
    return [group for group in groups if importlib.util.find_spec(f"{package}.{group}")]


@cache
def swept(board: str, folder: Path) -> dict[str, dict[str, object]]:
    groups = there("runner.node.gpu", gpu_state.GROUPS)
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, *groups],
        cwd=ROOT,
        env={**os.environ, **nvml.environment(folder, board)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, dict[str, object]] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boards")


@pytest.mark.parametrize("group", gpu_state.GROUPS)
@pytest.mark.parametrize("name", HEALTHY_NODES)
def test_no_group_finds_a_fault_on_a_healthy_node(name: str, group: str, folder: Path) -> None:
    if not there("runner.node.gpu", (group,)):
        pytest.skip(f"runner.node.gpu.{group} is not there")
    said = swept(HEALTHY_NODES[name], folder)[group]
    assert not said.get("faults"), said
    assert said.get("status", "ok") == "ok"


@pytest.mark.parametrize("name", HEALTHY_NODES)
def test_something_is_judged_on_every_healthy_node(name: str, folder: Path) -> None:
    groups = there("runner.node.gpu", gpu_state.GROUPS)
    if len(groups) < len(gpu_state.GROUPS):
        pytest.skip("not every group is there")
    said = swept(HEALTHY_NODES[name], folder)
    # A sweep that could judge nothing would pass the test above.
    assert [group for group in groups if "status" in said[group]], said


@pytest.mark.parametrize("group", host_paths.GROUPS)
def test_no_group_finds_a_fault_in_an_empty_captured_tree(group: str, tmp_path: Path) -> None:
    if not there("runner.node.host", (group,)):
        pytest.skip(f"runner.node.host.{group} is not there")
    (tmp_path / "proc").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.host_paths", "--group", group, "--root", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # Not applicable, or unknown; never a symptom, and never fine.
    assert done.returncode in {80, 3}, done.stdout + done.stderr


def test_all_groups_of_this_list_have_names_of_their_own() -> None:
    assert len({*gpu_state.GROUPS, *host_paths.GROUPS}) == len(gpu_state.GROUPS) + len(host_paths.GROUPS)
