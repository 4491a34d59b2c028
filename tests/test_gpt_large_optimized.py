import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.base.errors import InputError, RankError
from runner.base.stats import Interval
from runner.kit.budget import VARIABLE
from runner.kit.compile_options import Mode
from runner.kit.decode.job import DecodeJob
from runner.kit.probe import NOT_APPLICABLE
from runner.kit.ranks import World
from runner.probes.gpt_large_optimized import PROBE
from runner.record.evaluation import interval_of
from runner.record.model import Measurement
from runner.sizing.models import model_shape
from tests import nvml

main = PROBE.main

HANG_S = 230
SMALL = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}


@pytest.fixture
def small(tmp_path: Path) -> str:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    return str(folder / "config.json")


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "runner.probes.gpt_large_optimized",
            "--prompt-length",
            "16",
            "--turns",
            "6",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
        env=dict(os.environ) | dict(environment or {}),
    )


def by_name(document: Mapping[str, Any], arm: str) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in document["measurements"] if found["labels"].get("arm") == arm}


def test_prefill_and_decoding_are_measured_apart_with_their_samples(small: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    done = run(
        "--model",
        small,
        "--skip-compile",
        "--new-tokens",
        "5",
        "--batch-size",
        "2",
        "--output-json",
        str(output),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(output.read_text(encoding="utf-8")) == document
    found = by_name(document, "caller")
    assert len(found["time_to_first_token"]["samples"]) == 6
    assert len(found["time_per_output_token"]["samples"]) == 6 * 4
    expected = [2 / seconds for seconds in found["time_per_output_token"]["samples"]]
    assert found["tokens_per_second"]["samples"] == pytest.approx(expected)
    assert found["tokens_per_second"]["labels"]["model"] == "small"
    assert small not in done.stdout


@pytest.mark.system
def test_a_leftover_thread_limit_reaches_only_the_callers_arm(small: str) -> None:
    done = run(
        "--model", small, "--skip-compile", "--compare-environment", "--starts", "5", "--budget", "200",
        environment={"OMP_NUM_THREADS": "1", "WORLD_SIZE": "8", "RANK": "3"},
    )  # fmt: skip
    document = json.loads(done.stdout.splitlines()[-1])
    assert by_name(document, "caller")["threads"]["value"] == 1
    assert by_name(document, "clean")["threads"]["value"] == len(os.sched_getaffinity(0))
    ratios = [found for found in document["measurements"] if found["name"] == "clean_ratio"]
    assert {found["labels"]["phase"] for found in ratios} == {"prefill", "decode"}
    # On a busy machine every start is disturbed, and on an idle one the fourth may already decide.
    starts = document["effective"]["starts"]
    assert 4 <= starts <= 5
    for arm in ("caller", "clean"):
        found = by_name(document, arm)
        assert len(found["time_to_first_token"]["samples"]) == starts
        assert len(found["time_to_first_token_p95"]["samples"]) >= starts * 6
    assert document["details"]["leftovers"] == ["RANK", "WORLD_SIZE", "OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "13b"], "no model '13b'"),
        (["--model", "nowhere/model"], "no model 'nowhere/model'"),
        (["--model", "tiny", "--tensor-parallel-gpus", "0"], "--tensor-parallel-gpus must be above zero"),
        (
            ["--model", "tiny", "--tensor-parallel-gpus", "2", "--compare-environment"],
            "checks leftovers on one GPU",
        ),
        (["--model", "tiny", "--tensor-parallel-gpus", "4096"], "cores; use at most that many"),
        (["--model", "tiny", "--compare-environment", "--starts", "3"], "--starts must be from 4 to 24"),
        (["--model", "tiny", "--compare-environment", "--starts", "25"], "--starts must be from 4 to 24"),
        (["--model", "tiny", "--budget", "0"], "--budget must be above zero"),
        (["--model", "tiny", "--starts", "0"], "--starts must be above zero"),
        (["--model", "tiny", "--new-tokens", "1"], "--new-tokens must be 2 or more"),
        (["--model", "tiny", "--batch-size", "0"], "--batch-size must be above zero"),
        (["--model", "tiny", "--prompt-length", "131072"], "exceed the 131072 positions"),
    ],
)
def test_bad_input_is_refused_before_any_long_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == InputError.exit_status
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_fit_is_not_applicable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "70b", "--batch-size", "1024", "--prompt-length", "100000"]) == NOT_APPLICABLE
    assert "choose a smaller --model" in json.loads(capsys.readouterr().out)["reason"]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == InputError.exit_status
    return capsys.readouterr().err


def test_a_degree_that_does_not_divide_the_heads_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL, "num_key_value_heads": 1}), encoding="utf-8")
    said = refusal(["--model", str(path), "--tensor-parallel-gpus", "2"], capsys)
    assert "2 does not divide its 1 key/value heads; choose one of 1" in said


def test_wrong_head_counts_and_a_folder_without_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL, "num_key_value_heads": 3}), encoding="utf-8")
    assert "4 attention heads are not a multiple of 3 key/value heads" in refusal(
        ["--model", str(path)], capsys
    )
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    assert "has no weights (*.safetensors)" in refusal(["--model", str(tmp_path)], capsys)


def test_more_gpus_than_the_host_has_are_refused(small: str, tmp_path: Path) -> None:
    two = nvml.environment(tmp_path, nvml.EIGHT_B200.replace("count 8", "count 2"))
    done = run("--model", small, "--tensor-parallel-gpus", "4", environment=two)
    assert done.returncode == InputError.exit_status
    assert "--tensor-parallel-gpus 4: this host has 2 GPUs" in done.stderr


@pytest.mark.system
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks on a CPU need two cores")
def test_two_ranks_choose_the_tokens_that_one_process_chooses(small: str) -> None:
    tokens = []
    for ranks in ("1", "2"):
        done = run(
            "--model", small, "--skip-compile", "--turns", "2", "--new-tokens", "8", "--tensor-parallel-gpus", ranks
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout.splitlines()[-1])
        assert document["effective"]["ranks"] == int(ranks)
        tokens.append(document["details"]["tokens"])
    assert tokens[0] == tokens[1]


@pytest.mark.system
def test_where_the_time_is_over_at_once_one_start_is_reported_and_decides_nothing(small: str) -> None:
    done = run(
        "--model", small, "--skip-compile", "--compare-environment", "--budget", "0.001", "--turns", "4",
        environment={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ran 1 of 20 starts: time limit" in done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["effective"]["starts"] == 1
    assert document["reason"].startswith("unknown whether this environment reaches 0.9 of a clean one")
    ratios = [Measurement(**found) for found in document["measurements"] if found["name"] == "clean_ratio"]
    assert [interval_of(ratio) for ratio in ratios] == [Interval(0.0, math.inf, None)] * 2


@pytest.mark.system
def test_the_time_that_the_step_has_ends_the_starts_too(small: str) -> None:
    done = run("--model", small, "--skip-compile", "--starts", "1000", environment={VARIABLE: "1e-9"})
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["requested"]["starts"] == 1000
    assert document["effective"]["starts"] == 1
    assert "ran 1 of 1000 starts: time limit" in done.stderr


@pytest.mark.system
def test_each_start_is_a_process_of_its_own_that_chooses_the_same_tokens(small: str) -> None:
    others = set(psutil.Process().children(recursive=True))
    processes, tokens = [], []
    with World(worker(small), None, os.environ, time.monotonic() + HANG_S) as world:
        world.ask(None, "loading torch")
        for _ in range(2):
            world.ask({"start": True}, "building the model")
            tokens.append(world.ask({"new_tokens": 4}, "decoding")[0]["tokens"])
            processes.append(start_of(others).pid)
            world.ask({"end": True}, "ending the start")
    assert tokens[0] == tokens[1]
    assert processes[0] != processes[1]


def test_a_start_that_is_killed_is_an_error_at_once(small: str) -> None:
    others = set(psutil.Process().children(recursive=True))
    with World(worker(small), None, os.environ, time.monotonic() + HANG_S) as world:
        world.ask(None, "loading torch")
        world.ask({"start": True}, "building the model")
        start_of(others).kill()
        with pytest.raises(RankError, match="the process of a start exited with status -9"):
            world.ask({"new_tokens": 4}, "decoding")


DRIVER = """
static int started;
int cuInit(unsigned flags) { started = 1; return flags; }
int cuDeviceGetCount(int *count) { *count = 1; return started ? 0 : 3; }
"""
ASKS = """
import ctypes
from runner.kit.decode.worker import _load, driver_started
_load()
print(driver_started())
ctypes.CDLL("libcuda.so.1").cuInit(0)
print(driver_started())
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="the driver's stand-in is compiled")
def test_a_worker_sees_that_the_driver_was_started_and_its_imports_do_not_start_it(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER, encoding="utf-8")
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")], check=True)
    done = subprocess.run(
        [sys.executable, "-c", ASKS],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("device", "ranks", "mode", "forks"),
    [
        ("cpu", 1, Mode.WHOLE, True),
        ("cuda", 1, Mode.EAGER, True),
        ("cuda", 1, Mode.WHOLE, False),
        ("cpu", 2, Mode.EAGER, False),
        ("cuda", 2, Mode.EAGER, False),
    ],
)
def test_starts_are_forks_where_neither_ranks_nor_compile_workers_are_at_work(
    device: str, ranks: int, mode: Mode, *, forks: bool
) -> None:
    job = DecodeJob("tiny", model_shape("tiny"), None, device, ranks, 1, 16, 8)
    assert job.forks(mode) is forks
    assert ("--fork" in job.program(mode)) is forks


def start_of(others: set[psutil.Process]) -> psutil.Process:
    """The process in which a start runs: the child of the one process that is new."""
    (launched,) = set(psutil.Process().children()) - others
    (start,) = launched.children()
    return start


def worker(model: str) -> list[str]:
    job = DecodeJob(model, model_shape(model), None, "cpu", 1, 1, 16, 8)
    assert job.forks(Mode.EAGER)
    return job.program(Mode.EAGER)


@pytest.mark.system
def test_the_smart_ladder_compiles_the_step_and_says_which_rung_it_stands_on(small: str) -> None:
    done = run(
        "--model", small, "--compile-mode", "smart", "--turns", "2", "--new-tokens", "8", "--timeout", "1600"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["requested"]["compile_mode"] == "smart"
    assert document["effective"]["compile_mode"] == "whole"
    assert document["fallback_reason"] is None
    # The guard's child compiled the same step, so nothing was compiled without it.
    assert document["details"]["compile_cache"] == {"hits": 1, "misses": 0}


def test_the_flags_of_the_faq_are_known_without_torch() -> None:
    arguments = PROBE.parser().parse_args(["--tensor-parallel-gpus", "1", "--skip-compile"])
    assert (arguments.tensor_parallel_gpus, arguments.compile_mode) == (1, "eager")
    program = "import sys, runner.probes.gpt_large_optimized as g; g.PROBE.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
