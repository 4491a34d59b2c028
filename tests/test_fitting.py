"""What `long_context_validation` chooses for a device, without one: the model, the lengths and the budget."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

import runner.probes.long_context_validation as probe
from runner.base.errors import InputError
from runner.hardware.gpus import Gpu
from runner.hardware.machine import Machine, look
from runner.kit.long_context.question import Question, planned, swept
from runner.sizing.limits import GPU_OVERHEAD_BYTES, footprint, longest

MIB = 2**20
# Bytes that NVML states: the first three as measured or published, the last one of a small board.
BOARDS = {"H100": 81_559 * MIB, "H200": 150_754_820_096, "B200": 183_359 * MIB, "L4": 23_034 * MIB}
NODES = list(itertools.product(BOARDS, (1, 8)))
STEPS: dict[str, tuple[str, ...]] = {
    "sweep": ("--logits", "last"),
    "limit": ("--budget-share", "1.05", "--find-limit"),
    "remedies": ("--compare-remedies", "3"),
    "training": ("--mode", "training", "--compare-remedies", "3"),
    "naive": ("--budget-share", "0.7"),
    "same-budget": ("--budget-share", "0.7", "--apply-first-remedy"),
}


def host(board: str, gpus: int) -> Machine:
    found = [Gpu(index=number, name=f"NVIDIA {board}", memory_bytes=BOARDS[board]) for number in range(gpus)]
    return look().model_copy(update={"gpus": tuple(found)})


def asked(preset: str, *arguments: str) -> Any:
    return probe.PROBE.parser().parse_args(["--preset", preset, *arguments])


def question(board: str, gpus: int, *arguments: str) -> Question:
    return swept(asked("70b" if gpus == 8 else "8b", *arguments), lambda: host(board, gpus))


@pytest.mark.parametrize(("board", "gpus"), NODES)
@pytest.mark.parametrize("step", STEPS)
def test_a_healthy_node_can_hold_each_step_of_the_entry(step: str, board: str, gpus: int) -> None:
    found = question(board, gpus, *STEPS[step])
    usable = 0.9 * BOARDS[board]
    if step not in ("naive", "same-budget"):
        assert footprint(found.shape, found.work).total <= usable
    assert found.budget is None or found.budget <= BOARDS[board] - GPU_OVERHEAD_BYTES
    assert found.beyond_device is None
    # A fit of the growth needs three lengths.
    assert step == "remedies" or len(found.lengths) >= 3


@pytest.mark.parametrize(("board", "gpus"), NODES)
def test_training_steps_are_as_long_as_their_activations_need_to_matter(board: str, gpus: int) -> None:
    found = question(board, gpus, "--mode", "training")
    moments = {footprint(found.shape, found.at(tokens)).moment for tokens in found.lengths}
    assert len(moments) == 1
    plain = footprint(found.shape, found.work).total
    checkpointed = footprint(found.shape, replace(found.work, checkpointing="full")).total
    assert checkpointed < 0.95 * plain


def test_an_h100_trains_shorter_steps_of_the_same_model_as_an_h200() -> None:
    h100, h200 = question("H100", 1, "--mode", "training"), question("H200", 1, "--mode", "training")
    assert h100.model == h200.model == "8b"
    assert h200.lengths == (2048, 4096, 8192)
    assert all(2048 < tokens < 4096 and tokens % 64 == 0 for tokens in h100.lengths)
    assert max(h100.lengths) <= longest(h100.shape, h100.work, int(0.9 * BOARDS["H100"]))


@pytest.mark.parametrize(("board", "gpus"), NODES)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_plan_for_this_host_is_of_what_is_swept(mode: str, board: str, gpus: int) -> None:
    arguments = asked("70b", "--mode", mode, "--budget-share", "0.7")
    run = swept(arguments, lambda: host(board, gpus))
    arguments.plan = True
    plan = planned(arguments, lambda: host(board, gpus))
    assert (plan.shape, plan.lengths, plan.work, plan.budget) == (
        run.shape,
        run.lengths,
        run.work,
        run.budget,
    )


def test_a_node_of_eight_splits_the_large_model_and_one_gpu_of_it_takes_a_smaller_one() -> None:
    assert question("B200", 8, "--tensor-parallel-gpus", "8").model == "70b"
    assert question("B200", 8).model == "8b"
    assert question("B200", 8, "--sequence-lengths", "4096").model == "40b"
    assert question("L4", 1).model == "tiny"


def test_a_named_model_is_taken_as_it_is() -> None:
    found = question("H100", 1, "--model", "8b", "--mode", "training", "--sequence-lengths", "8192")
    assert (found.model, found.lengths) == ("8b", (8192,))


def test_a_budget_above_the_gpu_is_the_gpu_and_says_so() -> None:
    wide = question("H100", 1, "--budget-gib", "1000")
    assert wide.budget == BOARDS["H100"] - GPU_OVERHEAD_BYTES
    assert wide.beyond_device == 1000 * 2**30
    assert question("H100", 1, "--budget-gib", "70").beyond_device is None
    share = question("H100", 1, "--model", "8b", "--batch-size", "8", "--budget-share", "1.05")
    assert share.budget == BOARDS["H100"] - GPU_OVERHEAD_BYTES


def test_a_budget_that_the_gpu_cannot_raise_to_the_weights_is_refused() -> None:
    with pytest.raises(InputError, match=r"is below the weights of 70b, 131 GiB"):
        question("H100", 1, "--model", "70b", "--budget-gib", "200")
