"""Telling FP8 kernels from others: by name, calibrated on known products, for real on this device."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from runner.kit.compile_guard.blocks import lay_out
from runner.kit.precision import proof as proof_module
from runner.kit.precision.arms import TORCHAO, build_arm, fp32_reference, unavailable
from runner.kit.precision.building import SweptModes
from runner.kit.precision.kernel_names import ProofError, matcher
from runner.kit.precision.linear import block_linears, convert, signal_to_noise
from runner.kit.precision.product import OPERATOR, fp8_product
from runner.kit.precision.proof import (
    Proof,
    calibrated_matcher,
    census,
    known_products,
    layers_left_out,
    proof_of,
    prove,
    unproved_layers,
)
from runner.kit.profiling import Kernel, kernels_of
from runner.kit.transformer import build_model
from runner.sizing.models import ModelShape, model_shape

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


# As an H200 ran them, with torch 2.11 and CUDA 13.
H200_FP8 = {
    "nvjet_sm90_qqtst_256x128_128x4_1x2_h_bz_coopA_TNT",
    "nvjet_sm90_qqtst_128x128_128x6_2x1_v_bz_ovscale_TNT",
}
H200_OTHER = {
    "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_TNT",
    "nvjet_sm90_hsh_320x128_64x3_1x2_h_bz_coopB_TNT",
}
B200_FP8 = {"nvjet_sm100_qqtst_128x256_128x6_2x1_2cta_v_bz_TNT"}
B200_OTHER = {
    "nvjet_sm100_tst_128x256_64x6_2x1_2cta_v_bz_TNT",
    "nvjet_sm100_hsh_128x256_64x6_2x1_2cta_v_bz_TNT",
}


@pytest.mark.parametrize(
    ("fp8", "other", "unseen_fp8", "unseen_other"),
    [
        (
            H200_FP8,
            H200_OTHER,
            "nvjet_sm90_qqtst_144x128_128x6_1x2_h_bz_coopA_algo2_TNN",
            "nvjet_sm90_tst_64x64_64x13_2x1_v_bz_TNT",
        ),
        (
            B200_FP8,
            B200_OTHER,
            "nvjet_sm100_qqtst_256x128_128x4_2x1_2cta_h_bz_Avec32UE8M0_Bvec32UE8M0_TNT",
            "nvjet_sm100_tst_64x64_64x13_2x1_v_bz_TNT",
        ),
    ],
)
def test_the_family_before_the_tile_tells_fp8_on_hopper_and_on_blackwell_with_mxfp8(
    fp8: set[str], other: set[str], unseen_fp8: str, unseen_other: str
) -> None:
    told_by = matcher(fp8, other)
    assert told_by.rule == "up to the tile"
    assert told_by.is_fp8(unseen_fp8) is True
    assert told_by.is_fp8(unseen_other) is False
    assert told_by.is_fp8("cutlass3x_sm100_bstensorop_block_scaled_ue8m0xe4m3_128x128x128_0_tnt") is None


def test_a_tile_that_was_not_seen_is_still_recognised_by_its_family() -> None:
    told_by = matcher(HOPPER_FP8, HOPPER_BF16)
    assert told_by.rule == "up to the tile"
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
    assert proof.unknown is None


def test_where_no_kernel_is_recognised_the_share_is_unknown_with_the_longest_names_and_never_zero() -> None:
    ran = [Kernel("mystery_gemm<1>", 3.0, "a"), Kernel("copy", 1.0, "a"), Kernel("mystery_gemm<1>", 3.0, "b")]
    proof = prove(ran, matcher(B200_FP8, B200_OTHER))
    assert (proof.share, proof.by_layer) == (None, {})
    assert proof.unknown == "no kernel was recognised as a GEMM; longest: mystery_gemm<1>, copy"
    swept = SweptModes(proofs={"fp8": proof})
    assert (swept.fallback, swept.precision("fp8")) == (None, "unknown")
    assert swept.unproved == {"fp8": proof.unknown}
    bf16 = prove([Kernel(name, 1.0, "a") for name in B200_OTHER], matcher(B200_FP8, B200_OTHER))
    assert (SweptModes(proofs={"fp8": bf16}).precision("fp8"), bf16.share) == ("bf16", 0)


def test_a_layer_without_a_recognised_gemm_is_unproved_and_not_called_bf16() -> None:
    model = build_model(SHAPE, torch.bfloat16, "cpu")
    convert(model, leave_out=["layers.1.mlp.up_proj"])
    ran = [Kernel("nvjet_sm100_qqtst_8x8_1x1", 1.0, "layers.0.mlp.up_proj")]
    proof = prove(ran, matcher(B200_FP8, B200_OTHER))
    left = layers_left_out(model, proof, {})
    assert left == {"layers.1.mlp.up_proj": "no GEMM recognised: filtered out: it is still a plain Linear"}
    assert len(unproved_layers(model, proof, left)) == 12


def on_fake_cuda(monkeypatch: pytest.MonkeyPatch, names: Iterable[Sequence[str]]) -> Proof:
    """The calibration's own CUDA branch on fake tensors, where the profiler shows these kernels, call by call."""
    shown = iter(names)

    def profiled(run: Callable[[], Any], device: str) -> list[Kernel]:
        result = run()
        assert (device, result.device.type) == ("cuda", "cuda")
        return [Kernel(name, float(len(name))) for name in next(shown, ())]

    monkeypatch.setattr(proof_module, "profiled", profiled)
    monkeypatch.setattr(proof_module, "kernels_of", lambda *_: [])
    model = build_model(SHAPE, torch.bfloat16, "meta")
    with FakeTensorMode():
        return proof_of(model, lambda: None, 32, "cuda")


def test_a_profiler_that_shows_no_gpu_kernel_is_a_reason_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_fake_cuda(monkeypatch, [])
    assert (found.share, found.rule) == (None, None)
    assert "known BF16 GEMM: the profiler showed no GPU kernel" in str(found.unknown)
    known = [["nvjet_sm90_qqtst_1x1"]] * 3 + [["splitK_reduce", "nvjet_sm90_tst_128x128_64x4"]] * 2
    found = on_fake_cuda(monkeypatch, known * 4)
    assert (found.share, found.rule) == (None, "up to the tile")
    assert str(found.unknown).startswith("the profiler showed no GPU kernel")


def test_the_known_gemms_of_a_gpu_are_of_the_right_shapes_and_types_down_to_mxfp8() -> None:
    with FakeTensorMode():
        x, weight = (torch.randn(rows, 96, device="cuda", dtype=torch.bfloat16) for rows in (48, 144))
        made = [(is_fp8, run()) for is_fp8, run in known_products(x, weight)]
    assert [is_fp8 for is_fp8, _ in made] == [True, True, True, False, False]
    assert all(tuple(result.shape) == (48, 144) for _, result in made)
    assert [str(result.dtype) for _, result in made] == ["torch.bfloat16"] * 4 + ["torch.float16"]


def examined(model: Any, reasons: dict[str, str]) -> tuple[Any, dict[str, str], dict[str, int]]:
    tokens = torch.arange(32)[None]

    def forward() -> object:
        return model.model(tokens, use_cache=False)

    proof = prove(kernels_of(block_linears(model), forward, "cpu"), calibrated_matcher(model, 32, "cpu"))
    return proof, layers_left_out(model, proof, reasons), census(model, forward)


def test_layers_that_multiply_in_bf16_are_named_with_the_reason_whatever_was_meant() -> None:
    model = build_model(SHAPE, torch.bfloat16, "cpu")
    convert(model, leave_out=["layers.1.mlp.up_proj"])
    proof, left, made = examined(model, {})
    assert left == {"layers.1.mlp.up_proj": "not in FP8: filtered out: it is still a plain Linear"}
    # Which product multiplies FP8 values depends on the CPU.
    fp8 = "_scaled_mm" if fp8_product("cpu").native else OPERATOR
    assert set(proof.by_kernel) == {fp8, "mm"}
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
    monkeypatch.setattr("runner.kit.precision.arms.unavailable", lambda *_, **__: None)
    monkeypatch.setattr("torchao.quantization.quant_api._check_hardware_support", lambda _: None)
    monkeypatch.setattr(
        "runner.kit.precision.arms.build_model", lambda *_: build_model(odd, torch.bfloat16, "cpu")
    )
    arm = build_arm("fp8", odd, "cuda")
    assert arm.implementation == TORCHAO
    proof, left, made = examined(arm.model, dict(arm.left))
    assert sum(proof.by_layer.values()) == 8
    assert left["layers.0.mlp.up_proj"] == "not in FP8: its shape 136×64 is not a multiple of 16"
    assert made["Linear: weight Float8Tensor, bfloat16 → bfloat16"] == 8
    tokens = torch.arange(32)[None]
    assert signal_to_noise(arm.forward(tokens), fp32_reference(odd, "cpu", tokens)) > 15
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


class TwoParts(torch.nn.Module):
    """One repeated block whose weight is a tensor of two tensors, as quantised weights are."""

    def __init__(self) -> None:
        super().__init__()
        parts = [torch.randn(8, 8) for _ in range(2)]
        self.weight = torch.nn.Parameter(TwoTensor(*parts), requires_grad=False)  # type: ignore[no-untyped-call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Blocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([TwoParts()])

    def forward(self, x: torch.Tensor) -> Any:
        return self.blocks[0](x)


def test_a_block_for_the_compile_guard_keeps_weights_that_are_tensors_of_tensors() -> None:
    """Else the guard would compile 16-bit blocks and call them torchao's FP8."""

    def built() -> tuple[Any, tuple[Any, ...]]:
        return Blocks(), (torch.randn(4, 8),)

    [(block, inputs, _)], _ = lay_out(built, backward=False)
    assert type(block.weight) is TwoTensor
    assert torch.isfinite(block(*inputs).a).all()


def test_fp16_weights_leave_the_rotary_frequencies_in_fp32_as_every_other_mode_does() -> None:
    buffers = {}
    for mode in ("bf16", "fp16"):
        arm = build_arm(mode, SHAPE, "cpu")
        buffers[mode] = arm.model.model.rotary_emb.inv_freq
        wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[mode]
        assert {parameter.dtype for parameter in arm.model.parameters()} == {wanted}
        assert arm.forward(torch.arange(32)[None]).dtype == wanted
    assert buffers["fp16"].dtype == torch.float32
    assert torch.equal(buffers["fp16"], buffers["bf16"])
