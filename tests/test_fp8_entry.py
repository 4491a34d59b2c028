"""Entry 5, fp8-power-regression: its log lines and the step that sweeps with bad scales."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.entry.read import read_runbook
from runner.entry.signatures import match_log
from tests.logs import log_of

ROOT = Path(__file__).parents[1]
ENTRY = read_runbook(ROOT / "runbooks" / "fp8-power-regression.md")


@pytest.mark.parametrize(
    "line",
    [
        # vLLM
        "(Worker_TP0) WARNING [marlin] Your GPU does not have native support for FP8 computation but FP8 is used",
        "WARNING 03-01 02:59:58 [kv] Using KV cache scaling factor 1.0 for fp8_e4m3",
        "WARNING 03-01 02:59:58 [kv] Using uncalibrated q_scale 1.0 with fp8 attention",
        # SGLang
        "[03:00:01 TP4] Using FP8 KV cache but no factors. Defaulting to scaling factors of 1.0.",
        # Transformer Engine and torch
        "AssertionError: Device compute capability 8.9 or higher required for FP8 execution.",
        "AssertionError: FP8 execution requires the product of all dimensions except the last to be divisible by 8",
        "RuntimeError: Expected trailing dimension of mat1 to be divisible by 16 but got mat1 shape: (16x41).",
        "RuntimeError: Expected both dimensions of mat2 to be divisible by 16 but got torch.Size([41, 32])",
        "RuntimeError: Expected both dimensions of mat2 to be divisble by 16 but got torch.Size([41, 32])",
        "AssertionError: last_dim % MXFP8_BLOCK_SIZE == 0",
        "falling back to bf16 for layers.3.mlp.up_proj",
        "layers.7.mlp.down_proj: weight_scale_inv is nan",
    ],
)
def test_a_line_that_engines_and_libraries_log_for_this_issue_matches(line: str) -> None:
    (found,) = match_log(log_of(["INFO loading weights", line]), [ENTRY])
    assert [hit.number for hit in found.hits] == [2]


@pytest.mark.parametrize(
    "line",
    [
        "INFO 08-20 17:20:12 [cuda.py:300] Using FlashAttention version 3",
        "INFO Using fp8 data type to store kv cache. It reduces the GPU memory footprint.",
        "INFO Loaded KV cache scaling factors from the checkpoint",
        "ValueError: num_attention_heads must be divisible by 16",
        "INFO The GPU has compute capability 9.0",
        "INFO autoscaling between financial replicas",
    ],
)
def test_a_healthy_line_or_one_of_another_fault_does_not_match(line: str) -> None:
    assert match_log(log_of([line]), [ENTRY]) == ()


def test_the_sweep_with_bad_scales_makes_every_input_scale_64_times_too_small_and_changes_no_other(
    tmp_path: Path,
) -> None:
    step = ENTRY.step("corrupted-sweep")
    assert step is not None
    small = "--tokens 32 --window 0.02 --rounds 2"
    fast = step.command.replace("--modes bf16 fp8", f"--modes bf16 fp8 {small}")
    assert fast != step.command
    calibrate = (
        "python -m runner.probes.fp8_transformer_engine --recalibrate --calibration-batches 1 --tokens 32"
        " --output-json artifacts/fp8/recalibration.json"
    )
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RUNBOOK_RESULT": str(tmp_path / "result.json"),
    }
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{calibrate}\n{fast}"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    good, bad = (
        json.loads((tmp_path / "artifacts" / "fp8" / name).read_text(encoding="utf-8"))["details"]["scales"]
        for name in ("recalibration.json", "corrupted.json")
    )
    assert bad["inputs"] == {layer: scale / 64 for layer, scale in good["inputs"].items()}
    assert {key: bad[key] for key in bad if key != "inputs"} == {
        key: good[key] for key in good if key != "inputs"
    }
    document = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    noise = {
        one["labels"]["mode"]: one["value"]
        for one in document["measurements"]
        if one["name"] == "signal_to_noise"
    }
    assert noise["fp8"] < 10 < noise["bf16"]
