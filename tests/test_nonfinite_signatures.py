"""Log lines of trainers with values that are not finite, and lines of their healthy runs, which must not match."""

from pathlib import Path

import pytest

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
    "Megatron, another result": "Rank 3, node node7, device 3: Possible transient error!!",
    "Megatron, another GPU": "Rank 3, node node7, device 3, iteration #3: Possible persistent error!!",
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
    "NaN check": "NanCheck.cu:18: checkForNaN: block: [0,0,0], thread: [5,0,0] Assertion `!isnan(data[i])` failed.",
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
    "NaN check is on": "TORCH_NCCL_NAN_CHECK: 1",
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
