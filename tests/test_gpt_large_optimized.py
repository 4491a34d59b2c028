import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError
from runner.probes.contract import NOT_APPLICABLE
from runner.probes.gpt_large_optimized import PROBE, main

HANG_S = 120
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
    return str(folder)


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


def test_a_leftover_thread_limit_reaches_only_the_callers_arm(small: str) -> None:
    done = run(
        "--model", small, "--skip-compile", "--compare-environment",
        environment={"OMP_NUM_THREADS": "1", "WORLD_SIZE": "8", "RANK": "3"},
    )  # fmt: skip
    document = json.loads(done.stdout.splitlines()[-1])
    assert by_name(document, "caller")["threads"]["value"] == 1
    assert by_name(document, "clean")["threads"]["value"] == len(os.sched_getaffinity(0))
    ratios = [found for found in document["measurements"] if found["name"] == "clean_ratio"]
    assert {found["labels"]["phase"] for found in ratios} == {"prefill", "decode"}
    assert all(len(found["samples"]) == 6 for found in ratios)
    assert document["details"]["leftovers"] == ["RANK", "WORLD_SIZE", "OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "13b"], "no model '13b'"),
        (["--skip-compile", "--compile-mode", "default"], "contradict each other"),
        (["--model", "tiny", "--new-tokens", "1"], "--new-tokens must be 2 or more"),
        (["--model", "tiny", "--batch-size", "0"], "--batch-size must be above zero"),
        (["--model", "tiny", "--prompt-length", "131072"], "more than the 131072 positions"),
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


def test_more_than_one_gpu_is_not_applicable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tensor-parallel-gpus", "8", "--skip-compile"]) == NOT_APPLICABLE
    assert "--tensor-parallel-gpus 1" in json.loads(capsys.readouterr().out)["reason"]


def test_the_flags_of_the_faq_are_known_without_torch() -> None:
    arguments = PROBE.parser().parse_args(["--tensor-parallel-gpus", "1", "--skip-compile"])
    assert (arguments.tensor_parallel_gpus, arguments.skip_compile) == (1, True)
    program = "import sys, runner.probes.gpt_large_optimized as g; g.PROBE.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
