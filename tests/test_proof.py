"""Telling FP8 kernels from others: by name, calibrated on known products, for real on this device."""

from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runner.models import ModelShape, model_shape
from runner.probes.precision.arms import TORCHAO, build_arm, reference, signal_to_noise, unavailable
from runner.probes.precision.linear import block_linears, convert
from runner.probes.precision.proof import (
    Kernel,
    ProofError,
    calibrated_matcher,
    census,
    kernels_of,
    left_out,
    matcher,
    prove,
)
from runner.probes.transformer import build_model

SHAPE = ModelShape("small", 2, 64, 4, 2, 16, 128, 256, 512)
# As cuBLASLt and CUTLASS name them on Hopper and Ada: the tile is in the name, and a reduction is common to both.
HOPPER_FP8 = {
    "nvjet_qqtst_128x256_128x6_2x1_v_bz_TNT",
    "nvjet_qqtst_64x32_128x8_1x1_h_TNN",
    "splitKreduce_kernel",
}
HOPPER_BF16 = {"nvjet_tst_128x256_64x4_2x1_v_bz_TNT", "splitKreduce_kernel"}
ADA_FP8 = {"sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x64x64"}
ADA_BF16 = {"ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_tn", "sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n"}
CUTLASS = "void cutlass::device_kernel<at::cuda::enable_3x_kernel_for_sm9x<GemmUniversal<{}, tile_{}>>>"


def test_a_tile_that_was_not_seen_is_still_recognised_by_its_family() -> None:
    told_by = matcher(HOPPER_FP8, HOPPER_BF16)
    assert told_by.rule == "up to the first digit"
    assert told_by.is_fp8("nvjet_qqtst_192x64_128x5_1x2_h_TNT") is True
    assert told_by.is_fp8("nvjet_tst_192x64_64x5_1x2_h_TNT") is False
    assert told_by.is_fp8("splitKreduce_kernel") is None
    assert told_by.is_fp8("void flash_fwd_kernel<64>") is None


def test_names_that_begin_alike_are_told_apart_by_what_follows() -> None:
    told_by = matcher(ADA_FP8, ADA_BF16)
    assert told_by.is_fp8("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x64") is True
    assert told_by.is_fp8("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n") is False
    fp8, other = {CUTLASS.format("e4m3", 128)}, {CUTLASS.format("bf16", 128)}
    told_by = matcher(fp8, other)
    assert told_by.is_fp8(CUTLASS.format("e4m3", 64)) is True
    assert told_by.is_fp8(CUTLASS.format("bf16", 64)) is False


def test_a_device_on_which_both_run_the_same_kernels_proves_nothing() -> None:
    with pytest.raises(ProofError, match=r"ran the same kernels \(gemm_128\)"):
        matcher({"gemm_128"}, {"gemm_128"})
    with pytest.raises(ProofError, match="every known FP8 GEMM failed"):
        matcher(set(), {"gemm_128"})


NAMES = st.frozensets(st.text("ab_12", min_size=1, max_size=6), min_size=1, max_size=4)


@given(fp8=NAMES, other=NAMES)
def test_no_known_name_is_ever_taken_for_the_other_kind(fp8: frozenset[str], other: frozenset[str]) -> None:
    with suppress(ProofError):
        told_by = matcher(fp8, other)
        assert all(told_by.is_fp8(name) is not False for name in fp8 - other)
        assert all(told_by.is_fp8(name) is not True for name in other - fp8)


def test_a_layer_with_one_product_in_bf16_is_not_in_fp8_and_unknown_kernels_count_for_nothing() -> None:
    kernels = [
        Kernel("nvjet_qqtst_64x32_128x8_1x1_h_TNN", 3.0, "a"),
        Kernel("quantise_kernel", 5.0, "a"),
        Kernel("nvjet_qqtst_64x32_128x8_1x1_h_TNN", 1.0, "b"),
        Kernel("nvjet_tst_8x8_64x4_2x1_v_bz_TNT", 1.0, "b"),
        Kernel("quantise_kernel", 5.0, "c"),
        Kernel("nvjet_tst_8x8_64x4_2x1_v_bz_TNT", 5.0),
    ]
    proof = prove(kernels, matcher(HOPPER_FP8, HOPPER_BF16))
    assert proof.share == 0.4
    assert proof.by_layer == {"a": True, "b": False}
    assert prove([], matcher(HOPPER_FP8, HOPPER_BF16)).share == 0


def examined(model: Any, reasons: dict[str, str]) -> tuple[Any, dict[str, str], dict[str, int]]:
    tokens = torch.arange(32)[None]

    def forward() -> object:
        return model.model(tokens, use_cache=False)

    proof = prove(kernels_of(model, forward, "cpu"), calibrated_matcher(model, 32, "cpu"))
    return proof, left_out(model, proof, reasons), census(model, forward)


def test_layers_that_multiply_in_bf16_are_named_with_the_reason_whatever_was_meant() -> None:
    model = build_model(SHAPE, torch.bfloat16, "cpu")
    convert(model, leave_out=["layers.1.mlp.up_proj"])
    proof, left, made = examined(model, {})
    assert left == {"layers.1.mlp.up_proj": "not in FP8: filtered out: it is still a plain Linear"}
    assert set(proof.by_kernel) == {"_scaled_mm", "mm"}
    assert 0.5 < proof.share < 1
    assert made == {
        "Fp8Linear: weight float8_e4m3fn, bfloat16 → bfloat16": 13,
        "Linear: weight bfloat16, bfloat16 → bfloat16": 1,
    }


def test_a_transformer_engine_layer_outside_autocast_is_named_as_that() -> None:
    model = build_model(SHAPE, torch.bfloat16, "cpu")
    convert(model, leave_out=["layers.0.mlp.up_proj"])
    # A layer of theirs outside autocast is a matrix product in the weight's type, in a class of their package.
    theirs = type("Linear", (torch.nn.Linear,), {"__module__": "transformer_engine.pytorch.module.linear"})
    model.model.layers[0].mlp.up_proj.__class__ = theirs
    _, left, _ = examined(model, {})
    assert left == {
        "layers.0.mlp.up_proj": "not in FP8: outside autocast, where Transformer Engine's layers keep the weight's type"
    }


def test_torchao_quantises_every_layer_that_it_can_take_and_they_multiply_in_fp8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real torchao on the real kernels; only its own check for a GPU is lifted."""
    odd = ModelShape("odd", 2, 64, 4, 2, 16, 136, 256, 512)
    pytest.importorskip("torchao", reason="torchao is installed beside GPUs only: the `fp8` extra")
    monkeypatch.setattr("runner.probes.precision.arms.unavailable", lambda *_, **__: None)
    monkeypatch.setattr("torchao.quantization.quant_api._check_hardware_support", lambda _: None)
    monkeypatch.setattr(
        "runner.probes.precision.arms.build_model", lambda *_: build_model(odd, torch.bfloat16, "cpu")
    )
    arm = build_arm("fp8", odd, "cuda")
    assert arm.implementation == TORCHAO
    proof, left, made = examined(arm.model, dict(arm.left))
    assert sum(proof.by_layer.values()) == 8
    assert left["layers.0.mlp.up_proj"] == "not in FP8: its shape 136×64 is not a multiple of 16"
    assert made["Linear: weight Float8Tensor, bfloat16 → bfloat16"] == 8
    tokens = torch.arange(32)[None]
    assert signal_to_noise(arm.forward(tokens), reference(odd, "cpu", tokens)) > 15
    assert len(list(block_linears(arm.model))) == 14


@pytest.mark.parametrize(
    ("mode", "capability", "missing", "reason"),
    [
        ("fp8", (8, 0), None, "FP8 needs compute capability 8.9, this GPU has 8.0"),
        ("fp8_te", (8, 6), None, "FP8 needs compute capability 8.9, this GPU has 8.6"),
        ("fp8", (9, 0), "torchao.quantization", "torchao is not usable"),
        ("fp8_te", (10, 0), "transformer_engine.pytorch", "Transformer Engine is not usable"),
        ("bf16", (7, 0), None, None),
    ],
)
def test_a_mode_that_a_gpu_or_an_installation_cannot_run_says_why(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    capability: tuple[int, int],
    missing: str | None,
    reason: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if missing:
        monkeypatch.setitem(__import__("sys").modules, missing, None)
    found = unavailable(mode, "cuda")
    assert found is None if reason is None else reason in str(found)


def test_calibrated_scales_need_no_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    assert unavailable("fp8", "cuda", static=True) is None
    assert "install the `fp8` extra, or use --scales" in str(unavailable("fp8", "cuda"))
    assert model_shape("tiny").layers == 4
