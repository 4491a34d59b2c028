"""The FP8 probes on hosts with GPUs: which device they take, and their CUDA code, dry, on tensors without memory."""

import argparse
import math
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from runner.base.errors import RunbookError
from runner.kit.budget import Budget
from runner.kit.compile_guard.blocks import _converted
from runner.kit.precision import building, choice
from runner.kit.precision.arms import build_arm
from runner.kit.precision.building import SweptModes
from runner.kit.precision.choice import choose_work, free_bytes, layer_names
from runner.kit.precision.compiled import Compiled
from runner.kit.precision.linear import block_linears
from runner.kit.precision.proof import Proof
from runner.kit.precision.scales import Scales, digest_of
from runner.kit.probe import CRASHED, NOT_APPLICABLE, OK, NotApplicableError
from runner.sizing.models import model_shape
from tests.nvml import EIGHT_B200, environment

ROOT = Path(__file__).parents[1]
PROBES = (
    "fp8_transformer_engine",
    "precision_power_sweep --skip-compile --modes bf16 fp8 --rounds 1 --window 0.01",
)
GIB = 2**30


def run(probe: str, tmp_path: Path, board: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(
        [sys.executable, "-m", *f"runner.probes.{probe} --tokens 16".split()],
        cwd=ROOT,
        env=own | environment(tmp_path, board) | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("probe", PROBES)
def test_gpus_that_torch_cannot_use_are_an_error_in_one_line_and_never_the_cpus_numbers(
    probe: str, tmp_path: Path
) -> None:
    done = run(probe, tmp_path, EIGHT_B200)
    assert (done.returncode, done.stdout) == (CRASHED, "")
    assert "but this torch cannot use any" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("probe", PROBES)
def test_a_fabric_that_is_not_up_is_not_applicable_with_the_reason(probe: str, tmp_path: Path) -> None:
    done = run(probe, tmp_path, EIGHT_B200.replace("fabric 3 0 0", "fabric 2 0 0"))
    assert done.returncode == NOT_APPLICABLE
    assert "fabric" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("probe", PROBES)
def test_gpus_that_the_caller_hides_leave_the_cpu_with_the_smallest_model(probe: str, tmp_path: Path) -> None:
    done = run(probe, tmp_path, EIGHT_B200, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == OK, done.stderr
    assert '"device": "cpu"' in done.stdout
    assert '"model": "tiny"' in done.stdout


def chosen(
    monkeypatch: pytest.MonkeyPatch, free: int, modes: tuple[str, ...], preset: str | None = None
) -> str:
    """The model chosen on one GPU with so much free memory."""
    monkeypatch.setattr(choice, "usable_gpus", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: {0: (free, 1 << 60)}[index])
    return choose_work(argparse.Namespace(preset=preset, model=None, tokens=None, batch_size=1), modes).name


def test_the_model_fits_the_free_memory_of_the_visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, 139 * GIB, ("bf16", "fp8")) == "8b"
    # Beside another process: the fp32 reference of 8b would take 30 of 32 GiB.
    assert chosen(monkeypatch, 32 * GIB, ("bf16", "fp8")) == "tiny"
    assert chosen(monkeypatch, 139 * GIB, ("bf16", "fp8"), preset="70b") == "8b"
    with pytest.raises(NotApplicableError, match=r"needs .* for weights; the cuda has 1.00 MiB free"):
        chosen(monkeypatch, 1 << 20, ("bf16", "fp8"), preset="tiny")


def test_a_gpu_on_which_cuda_does_not_start_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_: int) -> tuple[int, int]:
        raise RuntimeError(
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors …"
        )

    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    with pytest.raises(RunbookError, match=r"first visible GPU \(CUDA error: .* unavailable\); check it"):
        free_bytes("cuda")


@pytest.mark.parametrize("mode", ["bf16", "fp16", "fp8"])
def test_the_models_of_a_gpu_are_built_and_their_layers_run_dry_with_calibrated_scales(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = model_shape("tiny")
    each = dict.fromkeys(layer_names(tiny), 0.01)
    scales = Scales("tiny", digest_of(tiny), "max", each, each)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    # A generator of CUDA's needs a GPU; without one, the weights are drawn from the CPU's.
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda *_: generator())
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, mock.patch.object(torch.nn.Module, "_apply", _converted), torch.no_grad():
        arm = build_arm(mode, tiny, "cuda", scales if mode == "fp8" else None, check=False)
        rows = torch.zeros(1, 32, tiny.hidden, device="cuda", dtype=arm.model.lm_head.weight.dtype)
        made = [layer(rows) for _, layer in block_linears(arm.model) if layer.in_features == tiny.hidden]
    assert len(made) == 6 * tiny.layers
    assert {(one.device.type, one.dtype) for one in made} == {("cuda", rows.dtype)}
    assert rows.dtype == (torch.float16 if mode == "fp16" else torch.bfloat16)
    weights = {layer.weight.dtype for _, layer in block_linears(arm.model)}
    assert weights == {torch.float8_e4m3fn if mode == "fp8" else rows.dtype}


@pytest.mark.parametrize("failing", ["fp8", "bf16"])
def test_an_fp8_library_that_fails_on_a_gpu_leaves_the_other_modes_and_bf16_that_fails_is_an_error(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(swept: SweptModes, compiled: Compiled, mode: str, *_: object) -> None:
        swept.proofs[mode] = Proof(0.0, {}, {}, "whole")
        if mode == failing:
            raise RuntimeError("no kernel image is available\nfor execution on the device")
        swept.accuracy[mode] = 40.0

    monkeypatch.setattr(building, "_add", add)
    for name in ("unavailable", "fp32_reference", "sample_tokens"):
        monkeypatch.setattr(building, name, lambda *_, **__: None)
    work = choice.Prefill(model_shape("8b"), "cuda", 1, 4096)
    asked = building.Asked(("bf16", "fp8"), "eager", 240.0, None)
    if failing == "bf16":
        with pytest.raises(RuntimeError, match="no kernel image"):
            building.build_modes(asked, work, None, Budget(math.inf))
        return
    swept, _ = building.build_modes(asked, work, None, Budget(math.inf))
    assert swept.unavailable == {"fp8": "RuntimeError: no kernel image is available"}
    assert (list(swept.accuracy), "fp8" in swept.proofs) == (["bf16"], False)
