"""`step_drill --topic data`: real loaders and real limits, each named, and none in a loop without one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.entry.read import read_runbook
from runner.entry.signatures import match_log
from runner.kit.steps.data.declared import DATA
from runner.kit.steps.data.drill import LIMITS, THREAD_VARIABLES
from runner.kit.steps.data.samples import CostlySamples, additions_for
from tests.logs import log_of
from tests.probe_process import probe

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[1]
ENTRY = read_runbook(ROOT / "runbooks/cpu-starved-gpus.md")
NOT_APPLICABLE = 80
_TRIES = 4
MANY_WORKERS = (
    "UserWarning: This DataLoader will create 8 worker processes in total. Our suggested max number of worker in "
    "current system is 2, which is smaller than what this DataLoader is going to create."
)
MANY_THREADS = (
    "(EngineCore pid=321) WARNING 09-01 07:39:55 [multiproc_executor.py:1070] Reducing Torch parallelism from 24 "
    "threads to 1 to avoid unnecessary CPU contention."
)
ONE_THREAD = (
    "W1128 08:00:00.000000 4711 torch/distributed/run.py:875] Setting OMP_NUM_THREADS environment variable for each "
    "process to be 1 in default, to avoid your system being overloaded"
)


def drill(*words: str) -> tuple[int, dict[str, Any], str]:
    status, document, said = probe("step_drill", "--topic", "data", *words)
    if status == NOT_APPLICABLE:
        pytest.skip(document["reason"])
    return status, document, said


def torch_threads() -> int:
    words = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    return int(subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout)


def numbers(document: dict[str, Any]) -> dict[str, float]:
    return {one["name"]: one["value"] for one in document["measurements"]}


def meanings(text: str) -> list[str]:
    return [hit.means or "" for match in match_log(log_of(text.splitlines()), [ENTRY]) for hit in match.hits]


@pytest.mark.parametrize("fault", ["slow-dataset", "few-workers", "affinity", "late-affinity", "quota"])
def test_an_injected_limit_is_named_and_its_line_leads_to_the_entry(fault: str) -> None:
    # Where other work makes the steps slower than they were at their calibration, a loader keeps up with them.
    for _ in range(_TRIES):
        status, document, told = drill("--fault", fault, "--steps", "24")
        if status == 1:
            break
    assert status == 1, told
    found = numbers(document)
    assert (found["limit_named"], found["limit_misnamed"]) == (1, 0), told
    assert f"limit: {LIMITS[fault]}" in document["reason"]
    assert meanings(document["reason"]) == [
        "the step meter of this project names what a training loop waits for"
    ]
    if fault == "quota":
        assert found["throttled_periods"] > 0.05
        groups = Path("/sys/fs/cgroup").glob("**/runbook-cpu-*")
        assert all(psutil.pid_exists(int(one.name.rpartition("-")[2])) for one in groups)
    free = torch_threads()
    assert ("threads_over_cores" in found) == (free > 1)
    if free > 1:
        # Half a core is the quota; the count follows neither it nor a binding that comes later.
        expected = {"affinity": 1.0, "late-affinity": free, "quota": 2 * free}
        assert found["threads_over_cores"] == expected.get(fault, found["threads_over_cores"])


@pytest.mark.parametrize("fault", ["none", "wide-quota"])
def test_a_loop_without_a_limit_is_told_none(fault: str) -> None:
    status, document, told = drill("--fault", fault, "--steps", "24")
    assert status == 0, told
    found = numbers(document)
    # On a busy host, other processes may use the cores in every try. The meter then says `neighbours`.
    [report] = document["details"]["reports"]
    assert (found["limit_named"], found["limit_misnamed"]) == (int(report["limit"] != "neighbours"), 0)
    assert report["limit"] in {LIMITS[fault], "neighbours"}
    assert bool(meanings(told)) == (report["limit"] == "neighbours")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "3"), "--steps must be at least 20"),
        (("--steps", "0"), "--steps"),
        (("--fault", "nonsense"), "invalid choice"),
    ],
)
def test_what_cannot_be_drilled_is_refused_in_one_line(words: tuple[str, ...], said: str) -> None:
    status, _, told = drill(*words)
    assert status == 2
    assert said in told
    assert len(told.splitlines()) == 1


def test_every_fault_of_the_topic_has_its_limit() -> None:
    assert set(LIMITS) == {"none", *DATA.faults}


def test_the_cost_of_a_sample_follows_the_time_that_it_should_take() -> None:
    assert additions_for(1e-9) == 1
    short, long = additions_for(0.001), additions_for(0.01)
    assert 3 * short < long < 30 * short


def test_samples_are_equal_for_equal_numbers() -> None:
    samples = CostlySamples(50)
    assert samples[3].tolist() == samples[3].tolist() != samples[4].tolist()
    assert samples[3].shape == (64,)
    assert int(samples[3].max()) < 50


def test_both_arms_of_the_cost_train_on_batches_of_a_loader() -> None:
    with DATA.arms(0) as arms:
        assert [float(step(0)) > 0 for step in (arms.bare, arms.guarded, arms.bare, arms.guarded)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "weight_of"),
    [
        ("RuntimeError: DataLoader timed out after 60 seconds", "no batch within its timeout"),
    ],
)
def test_lines_of_pytorch_lead_to_the_entry(line: str, weight_of: str) -> None:
    (meaning,) = meanings(line)
    assert weight_of in meaning


@pytest.mark.parametrize(
    "line",
    [
        "DataLoader worker (pid 12) exited unexpectedly",
        "200 steps, wait for data 1% (host 1%), first batch 0.3 s; limit: none",
        "request limit: threads, 8",
        "data loader ready after 12 seconds",
        # Printed at each start, whatever follows.
        MANY_THREADS,
        MANY_WORKERS,
        ONE_THREAD,
    ],
)
def test_healthy_and_foreign_lines_do_not(line: str) -> None:
    assert not meanings(line)
