import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.kit.leftovers.variables import Harm, leftovers, without_leftovers
from runner.kit.probe import OK, SYMPTOM
from runner.probes.stale_env import PROBE
from tests.test_foreign_files import waiting

main = PROBE.main

TORCHRUN = {
    "WORLD_SIZE": "8",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "8",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_MAX_RESTARTS": "0",
    "OMP_NUM_THREADS": "1",
    "NCCL_P2P_DISABLE": "1",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for leftover in leftovers(os.environ, 2):
        monkeypatch.delenv(leftover.name)
    monkeypatch.delenv("RUNBOOK_RESULT", raising=False)


@pytest.mark.parametrize(
    ("name", "value", "harm"),
    [
        ("WORLD_SIZE", "8", Harm.HIGH),
        ("WORLD_SIZE", "1", Harm.LOW),
        ("RANK", "3", Harm.HIGH),
        ("OMP_NUM_THREADS", "1", Harm.MEDIUM),
        ("OMP_NUM_THREADS", "16", None),
        ("CUDA_LAUNCH_BLOCKING", "1", Harm.HIGH),
        ("CUDA_LAUNCH_BLOCKING", "0", None),
        ("TORCHDYNAMO_DISABLE", "1", Harm.HIGH),
        ("TORCHDYNAMO_DISABLE", "0", None),
        ("TORCH_COMPILE_DISABLE", "1", Harm.HIGH),
        ("TORCH_COMPILE_DISABLE", "true", Harm.LOW),
        ("TORCH_COMPILE_DISABLE", "", None),
        ("CUDA_VISIBLE_DEVICES", "0", None),
        ("CUDA_VISIBLE_DEVICES", "GPU-8f3a", None),
        ("CUDA_VISIBLE_DEVICES", "0,1,2,3", Harm.MEDIUM),
        ("CUDA_VISIBLE_DEVICES", "-1", Harm.HIGH),
        ("CUDA_VISIBLE_DEVICES", "all", Harm.HIGH),
        ("CUDA_VISIBLE_DEVICES", "3,3", Harm.HIGH),
        ("CUDA_VISIBLE_DEVICES", "3,-1,4", None),
        ("CUDA_VISIBLE_DEVICES", "MIG-1a,MIG-2b", None),
        ("MASTER_ADDR", "10.0.0.1", Harm.MEDIUM),
        ("NCCL_DEBUG", "WARN", Harm.LOW),
        ("NCCL_P2P_DISABLE", "1", Harm.MEDIUM),
        ("TORCHELASTIC_RESTART_COUNT", "0", Harm.LOW),
        ("PATH", "/usr/bin", None),
    ],
)
def test_each_variable_is_judged_by_what_it_does(name: str, value: str, harm: Harm | None) -> None:
    assert [leftover.harm for leftover in leftovers({name: value}, 2)] == ([harm] if harm else [])


def test_one_thread_is_right_on_one_core() -> None:
    assert leftovers({"OMP_NUM_THREADS": "1"}, 1) == []


def test_the_worst_comes_first() -> None:
    found = leftovers(TORCHRUN, 2)
    assert found[0].name == "WORLD_SIZE"
    assert found[-1].harm is Harm.LOW
    assert {leftover.name for leftover in found} == set(TORCHRUN)


def test_a_cleaned_environment_has_no_leftovers_and_keeps_the_rest() -> None:
    clean = without_leftovers(TORCHRUN | {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0,1"}, 2)
    assert clean == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0"}


@pytest.mark.parametrize(
    ("held", "left"),
    [
        ("2,3", "2"),
        (" 5 ,6", "5"),
        ("GPU-1a2b,GPU-3c", "GPU-1a2b"),
        ("", "0"),
        ("-1", "0"),
        ("GPU-$(x),GPU-y", "0"),
    ],
)
def test_a_cleaned_environment_keeps_one_of_the_gpus_that_the_caller_held(held: str, left: str) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": held}
    assert without_leftovers(environment, 2) == {"CUDA_VISIBLE_DEVICES": left}
    (found,) = leftovers(environment, 2)
    assert (found.undo.text, found.undo.is_code) == (f"export CUDA_VISIBLE_DEVICES={left}", True)
    (found,) = leftovers(environment, 2, process=7)
    assert found.undo.text.startswith(f"restart process 7 with CUDA_VISIBLE_DEVICES={left}: ")


def test_leftovers_are_the_symptom_and_a_clean_environment_is_healthy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == OK
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert main([]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    assert document["reason"].startswith("leftover WORLD_SIZE: ")
    assert "10.0.0.1" not in json.dumps(document)


def test_the_printed_lines_clean_a_real_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert main(["--shell"]) == OK
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{capsys.readouterr().out}\nenv"],
        capture_output=True,
        text=True,
        check=True,
    )
    left = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert not TORCHRUN.keys() & left.keys()


def test_a_low_leftover_alone_is_no_symptom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    assert main([]) == OK


def test_a_running_servers_environment_is_read_by_its_process_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with waiting(dict(os.environ) | TORCHRUN) as pid:
        assert main(["--pid", str(pid)]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    assert {found["name"] for found in document["details"]["findings"]} == set(TORCHRUN)
    assert document["details"]["undo"] == []
    assert document["details"]["by_hand"][0] == (
        f"restart process {pid} without WORLD_SIZE: it keeps its initial environment"
    )


def test_a_process_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert main(["--pid", str(gone.pid)]) == InputError.exit_status
    assert f"there is no process {gone.pid};" in capsys.readouterr().err


def test_sharding_in_a_configuration_file_is_a_symptom_to_undo_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("model: m\ntensor-parallel-size: 8\n", encoding="utf-8")
    assert main(["--config", str(config)]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    assert document["reason"] == ("leftover tensor-parallel-size: the configuration requests 8 GPUs (line 2)")
    assert main(["--config", str(config), "--shell"]) == OK
    assert capsys.readouterr().out == "# by hand: change tensor-parallel-size to 1 in serve.yaml, line 2\n"
    assert str(tmp_path) not in json.dumps(document)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*TORCHRUN, "CUDA_VISIBLE_DEVICES", "NCCL_NVLS_ENABLE", "CUDA_LAUNCH_BLOCKING"]),
        st.text(max_size=20) | st.sampled_from(["9" * 5000, "-" + "9" * 5000, "٣", "²"]),
    )
)
def test_any_value_of_any_variable_is_judged_and_can_be_undone(environment: dict[str, str]) -> None:
    assert leftovers(without_leftovers(environment, 2), 2) == [] or "CUDA_VISIBLE_DEVICES" in environment
