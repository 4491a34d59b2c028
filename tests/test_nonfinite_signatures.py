"""Log lines of trainers with values that are not finite, and lines of their healthy runs; the entry's own commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runner.entry.read import read_all
from runner.entry.signatures import match_log
from runner.guards.nonfinite import NonFinite, Place
from tests.logs import log_of

RUNBOOKS = read_all(Path(__file__).parents[1] / "runbooks")
ENTRY = "nonfinite-loss"

FIRST = NonFinite(3, 17, Place("output", "layers.7"), "nan", Place("output", "layers.6"), (1,), (1,))
ROOT = NonFinite(0, 0, Place("input", ""), "nan", None, (0,), (0,))
WEIGHT = NonFinite(9, 40, Place("gradient of weight", "lm_head"), "inf", None, (2, 3), (2, 3))
SICK = {
    "the guard": str(FIRST),
    "the guard, the input": str(ROOT),
    "the guard, a gradient": str(WEIGHT),
    "Megatron, a bucket": (
        "RuntimeError: Rank 12, node n4, device 4, iteration 8801: Unexpected result nan (message='found NaN in local"
        " grad norm for bucket #3 in backward pass before data-parallel communication collective')"
    ),
    "Megatron, an infinity": (
        "ERROR:megatron.core.rerun_state_machine:Unexpected result inf on rank 3 at iteration #9 invocation #2"
        " (message='found Inf in local grad norm for bucket #0 in backward pass')"
    ),
    "Megatron, a tensor": "Unexpected result tensor(nan, device='cuda:0') at a.py line 8, invokation #1",
    "Megatron, skipped": (
        " iteration 824/20000 | lm loss: 6.1E+00 | number of skipped iterations:   1 | number of nan iterations:   1 |"
    ),
    "Megatron, a norm": (
        " iteration 5426/ 250000 | loss scale: 1.0 | grad norm: nan | number of skipped iterations:   0 |"
        " number of nan iterations:   0 |"
    ),
    "DeepSpeed, the end": "Current loss scale already at minimum - cannot decrease scale anymore. Exiting run.",
    "DeepSpeed, bf16": "[INFO] [loss_scaler.py:190:update_scale] [deepspeed] OVERFLOW! Rank 0 Skipping step.",
    "DeepSpeed, a low scale": "[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 32, reducing to 16",
    "Trainer": "{'loss': nan, 'grad_norm': 1.2, 'learning_rate': 2e-05, 'epoch': 0.27}",
    "Trainer, hidden": "{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 2e-05, 'epoch': 0.27}",
    "Trainer of transformers 5": "{'loss': '0', 'grad_norm': 'nan', 'learning_rate': '2e-05', 'epoch': '0.27'}",
    "torchtitan": "[rank0]:[titan] 2025-09-11 17:33:50 - root - INFO - step: 40  loss:     nan  grad_norm:     nan",
    "torchtitan in colours": (
        "INFO - \x1b[31mstep: 40  \x1b[32mloss:     nan  \x1b[38;2;180;60;0mgrad_norm:     nan"
    ),
    "a loop of one's own": "step 12 loss nan",
    "a loop with bars": "epoch 1 | loss: nan | lr 1e-4",
    "a progress bar": "Epoch 0:   1%| 1/10 [00:01<00:10, 1.0it/s, v_num=0, train_loss=nan.0]",
    "Megatron, the loss": " iteration 9/10 | lm loss: NAN | loss scale: 1.0 |",
    "NaN check": "NanCheck.cu:18: checkForNaN: block: [0,0,0], thread: [5,0,0] Assertion `!isnan(data[i])` failed.",
    "NaN check of torch 2.13": (
        "/pytorch/torch/csrc/distributed/c10d/NanCheck.cu:70: check: block: [3,0,0], thread: [66,0,0] Assertion"
        " `!isnan(data[0]) && !isnan(data[1]) && !isnan(data[2]) && !isnan(data[3])` failed."
    ),
    "NaN check, FP8": (
        "NanCheck.cu:138: check: block: [3,0,0], thread: [6,0,0] Assertion `!HasNanFP8x8<T>::check(tmp->ul[0])` failed."
    ),
    "NaN check, older": "Utils.cu:15: checkForNaN: block: [0,0,0], thread: [0,0,0] Assertion `!isnan(val)` failed.",
    "anomaly detection": "RuntimeError: Function 'SoftmaxBackward0' returned nan values in its 0th output.",
    "clipping": (
        "The total norm of order 2.0 for gradients from `parameters` is non-finite, so it cannot be clipped."
    ),
    "Lightning, the loss": "ValueError: The loss returned in `training_step` is nan.",
    "Lightning, a weight": "ValueError: Detected nan and/or inf values in `decoder.weight`. Check your forward pass",
}
HEALTHY = {
    "Megatron": (
        " iteration       10/ 3125000 | lm loss: 1.010967E+01 | loss scale: 4096.0 | grad norm: 178.553 |"
        " number of skipped iterations:   0 | number of nan iterations:   0 |"
    ),
    "Megatron, fp16 begins": (
        " iteration 1/5 | loss scale: 4294967296.0 | number of skipped iterations: 1 | number of nan iterations:   0 |"
    ),
    "Megatron, arguments": "  check_for_nan_in_loss_and_grad .................. True",
    "Megatron, reruns": "RerunStateMachine initialized in mode RerunMode.VALIDATE_RESULTS",
    "DeepSpeed, fp16": "[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 65536, reducing to 32768",
    "DeepSpeed, hysteresis": (
        "[deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 4294967296, but hysteresis is 2. Reducing"
        " hysteresis to 1"
    ),
    "Trainer": "{'loss': '1.702', 'grad_norm': '2.87', 'learning_rate': '2e-05', 'epoch': '0.16'}",
    "Trainer, arguments": "logging_nan_inf_filter=True,",
    "torchtitan": "[rank0]:[titan] 2025-09-11 - root - INFO - step:  1  loss:  8.0403  grad_norm:  1.3470",
    "a validation that was not yet": "step 12 | loss: 2.31 | val loss: nan | best_val_loss=nan",
    "an argument": "skip_loss: nan-safe, loss nanmean, on_loss=nan_to_num",
    "NaN check is on": "TORCH_NCCL_NAN_CHECK: 1",
    "another assert": "Indexing.cu:1553: indexSelect: block: [0,0,0], thread: [0,0,0] Assertion `srcIndex < n` failed.",
    "a name": "INFO loading tokenizer nanotron-inf, 32000 tokens; first inference in output of 3 s",
}


def matched(line: str) -> set[str]:
    return {match.runbook_id for match in match_log(log_of([line]), RUNBOOKS)}


@pytest.mark.parametrize("who", SICK)
def test_a_line_of_a_sick_run_leads_to_the_entry_and_to_no_other(who: str) -> None:
    assert matched(SICK[who]) == {ENTRY}


@pytest.mark.parametrize("who", HEALTHY)
def test_a_line_of_a_healthy_run_does_not(who: str) -> None:
    assert matched(HEALTHY[who]) == set()


def test_the_verdict_about_another_gpu_leads_to_wrong_results_and_does_not_accuse_the_gpu_of_the_line() -> (
    None
):
    (line,) = ["Rank 3, node node7, device 3, iteration #3: Possible persistent error!!"]
    matches = match_log(log_of([line]), RUNBOOKS)
    assert {one.runbook_id for one in matches} == {"silent-data-corruption"}
    assert all("run before" in (hit.means or "") for one in matches for hit in one.hits)


# What `grep` of By hand must find, and what of a healthy log it must not.
FOUND = (
    "{'loss': nan, 'grad_norm': 1.2}",
    "{'loss': '0', 'grad_norm': 'nan'}",
    " iteration 5426/ 250000 | loss scale: 1.0 | grad norm: nan | number of nan iterations:   0 |",
    "step: 40  loss:     nan  grad_norm:     nan",
    "loss=tensor(nan, device='cuda:0')",
    "train_loss: -inf",
    '{"step": 3, "loss": NaN}',
)
PASSED = (
    " iteration 10/ 3125000 | lm loss: 1.010967E+01 | loss scale: 4096.0 | grad norm: 178.553 |",
    "step:  1  loss:  8.0403  grad_norm:  1.3470",
    "loss: info is logged every 10 steps",
    "loss: nanotron",
    "logging_nan_inf_filter=True,",
)


@pytest.mark.parametrize("line", [*FOUND, *PASSED])
def test_the_grep_of_by_hand_finds_the_first_bad_line_and_no_healthy_one(line: str) -> None:
    (pattern,) = re.findall(r"grep -niE '([^']+)'", _text())
    found = subprocess.run(["grep", "-niE", pattern], input=line, capture_output=True, text=True, check=False)
    assert bool(found.stdout) == (line in FOUND)


NAN = torch.tensor([1.0, float("nan")])
CHECKPOINTS = {
    "weights alone": ({"a": NAN, "b": torch.ones(2)}, "1 of 2 tensors are not finite ['.a']"),
    "nested": (
        {"model_state_dict": {"a": NAN}, "step": 3},
        "1 of 1 tensors are not finite ['.model_state_dict.a']",
    ),
    "an optimizer": (
        {"model": {"a": torch.ones(2)}, "optimizer": {"state": {0: {"exp_avg": NAN}}}},
        "1 of 2 tensors are not finite ['.optimizer.state.0.exp_avg']",
    ),
    "FP8": ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "0 of 1 tensors are not finite []"),
    "a NaN in FP8": ({"a": NAN.to(torch.float8_e4m3fn)}, "1 of 1 tensors are not finite ['.a']"),
    "whole numbers": ({"a": torch.arange(3), "b": [torch.ones(1)]}, "0 of 2 tensors are not finite []"),
    "no tensors": ({"step": 3}, "0 of 0 tensors are not finite []"),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_the_script_of_by_hand_reads_a_checkpoint_however_it_is_nested(what: str, tmp_path: Path) -> None:
    state, says = CHECKPOINTS[what]
    torch.save(state, tmp_path / "checkpoint.pt")
    (script,) = re.findall(r"<<'END'\n(.+?)\nEND\n", _text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-", tmp_path / "checkpoint.pt"],
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == says


def _text() -> str:
    return (Path(__file__).parents[1] / "runbooks" / f"{ENTRY}.md").read_text(encoding="utf-8")
