"""Settings that hide the next hang of a job, and an idle node beside them that has none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.readiness import RECORDER, blind_spots
from runner.probes.hang_readiness import PROBE

ROOT = Path(__file__).parents[1]
RANK = {"RANK": "0", "WORLD_SIZE": "2"}
READY = {
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}
OURS = ("TORCH_FR_", "TORCH_NCCL_", "NCCL_BLOCKING", "NCCL_ASYNC", "RANK", "WORLD_SIZE", "RUNBOOK_")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)


def hidden(variables: dict[str, str], torch: str | None = None, writable: bool = True) -> list[str]:
    return [one.name for one in blind_spots(variables, torch, lambda _: writable)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCH_FR_BUFFER_SIZE", "0"),
        ("TORCH_NCCL_TRACE_BUFFER_SIZE", "0"),
        ("TORCH_NCCL_DUMP_ON_TIMEOUT", "0"),
        ("TORCH_NCCL_DUMP_ON_TIMEOUT", "False"),
        ("TORCH_NCCL_BLOCKING_WAIT", "1"),
        ("NCCL_BLOCKING_WAIT", "1"),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0"),
        ("NCCL_ASYNC_ERROR_HANDLING", "0"),
    ],
)
def test_a_setting_that_hides_a_hang_is_named_alone(name: str, value: str) -> None:
    ready = {key: old for key, old in READY.items() if key != name and name not in RECORDER}
    assert hidden(ready | {name: value}) == [name]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        READY,
        {"TORCH_NCCL_DUMP_ON_TIMEOUT": "true"},
        {"TORCH_NCCL_BLOCKING_WAIT": "0"},
        {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"},
        {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"},
        {"TORCH_NCCL_ENABLE_MONITORING": "1"},
        {"TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "480"},
        # The newer name decides.
        {"TORCH_NCCL_BLOCKING_WAIT": "0", "NCCL_BLOCKING_WAIT": "1"},
    ],
)
def test_a_setting_that_hides_nothing_is_not_named(variables: dict[str, str]) -> None:
    assert hidden(variables) == []


def test_a_recorder_without_a_size_is_off_only_where_the_version_of_torch_is_known_to_have_it_off() -> None:
    assert hidden({}, "2.8.0+cu128") == hidden({}, "2.10.0") == ["TORCH_FR_BUFFER_SIZE"]
    assert hidden({}, "2.11.0+cu130") == hidden({}, "2.13.0+cpu") == hidden({}) == []


def test_an_older_torch_reads_the_older_name_alone_and_dumps_only_if_it_is_asked_to() -> None:
    newer = {"TORCH_FR_BUFFER_SIZE": "2000"}
    assert hidden({}, "2.4.1") == ["TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT"]
    assert hidden(newer, "2.7.1") == ["TORCH_NCCL_TRACE_BUFFER_SIZE"]
    assert hidden(READY, "2.4.1") == []


def test_the_dump_of_nccls_groups_needs_its_own_size() -> None:
    newer, older = {"TORCH_FR_BUFFER_SIZE": "2000"}, "TORCH_NCCL_TRACE_BUFFER_SIZE"
    assert hidden(newer | {older: "0"}) == [older]
    # Its default is 0 up to torch 2.10, whatever the newer name says.
    assert hidden(newer, "2.9.1") == hidden(newer, "2.10.0") == [older]
    assert hidden(newer, "2.11.0") == hidden(newer) == []


def test_a_folder_of_dumps_that_cannot_be_written_to_is_named() -> None:
    assert hidden({"TORCH_FR_DUMP_TEMP_FILE": "/dumps/rank_"}, writable=False) == ["TORCH_FR_DUMP_TEMP_FILE"]
    assert hidden({"TORCH_FR_DUMP_TEMP_FILE": "/dumps/rank_"}, writable=True) == []


@given(
    st.dictionaries(
        st.sampled_from([*RECORDER, "TORCH_NCCL_DUMP_ON_TIMEOUT", "NCCL_BLOCKING_WAIT"]), st.text()
    )
)
def test_any_value_is_judged_without_an_error(variables: dict[str, str]) -> None:
    found = blind_spots(variables, "2.13", None)
    assert {one.name for one in found} <= set(variables)


def test_a_node_without_a_job_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROBE.main([]) == 80
    assert "not the environment of a job of several ranks" in capsys.readouterr().out


def test_this_environment_is_judged_where_it_is_a_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (RANK | READY).items():
        monkeypatch.setenv(name, value)
    assert PROBE.main([]) == 0
    monkeypatch.setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    capsys.readouterr()
    assert PROBE.main([]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["reason"] == "TORCH_NCCL_DUMP_ON_TIMEOUT: a timeout writes no dump"
    assert document["measurements"][0]["value"] == 1


def test_a_running_rank_is_judged_by_its_own_environment(capsys: pytest.CaptureFixture[str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"],
        env={"PATH": os.environ["PATH"], "TORCH_NCCL_BLOCKING_WAIT": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout
        child.stdout.readline()
        assert PROBE.main(["--pid", str(child.pid)]) == 1
        assert "TORCH_NCCL_BLOCKING_WAIT" in json.loads(capsys.readouterr().out)["reason"]
    finally:
        child.communicate()


def test_only_a_job_that_would_wait_for_ever_has_to_be_restarted() -> None:
    variables = {
        "TORCH_FR_BUFFER_SIZE": "0",
        "TORCH_NCCL_BLOCKING_WAIT": "1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    }
    found = {one.name: one.action.value for one in blind_spots(variables, "2.13", None)}
    assert found == {
        "TORCH_FR_BUFFER_SIZE": "keep",
        "TORCH_NCCL_BLOCKING_WAIT": "restart",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "restart",
    }
