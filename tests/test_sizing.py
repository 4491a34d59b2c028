from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.hardware.boards import board_named
from runner.sizing.inference import activations, logits_bytes
from runner.sizing.limits import board_budget, footprint, largest_batch, longest, quadratic_term
from runner.sizing.models import ModelShape, model_shape
from runner.sizing.presets import PRESETS
from runner.sizing.remedies import first_remedy, memory_remedies, together
from runner.sizing.work import (
    Attention,
    Checkpointing,
    Footprint,
    ModelWork,
    Optimizer,
    kv_cache_bytes,
    weight_bytes,
)

ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager")
CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", "full", "selective")
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "sgd")
KIB, MIB, GIB = 2**10, 2**20, 2**30


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    kv_heads = draw(st.sampled_from([1, 2, 3, 6, 8]))
    return ModelShape(
        name="drawn",
        layers=draw(st.integers(1, 8)),
        hidden=draw(st.sampled_from([64, 256, 1000])),
        heads=kv_heads * draw(st.sampled_from([1, 2, 4, 8])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([16, 64, 128])),
        ff=draw(st.sampled_from([32, 512, 3001])),
        vocab=draw(st.sampled_from([16, 1024, 50304])),
        max_positions=131072,
        gated_mlp=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
    )


@st.composite
def works(draw: st.DrawFn) -> ModelWork:
    return ModelWork(
        tokens=draw(st.integers(1, 70000)),
        batch=draw(st.integers(1, 9)),
        weight_bytes=draw(st.sampled_from([2, 4])),
        kv_bytes=draw(st.sampled_from([1, 2, 4])),
        all_logits=draw(st.booleans()),
        chunk=draw(st.none() | st.integers(1, 70000)),
        attention=draw(st.sampled_from(ATTENTIONS)),
    )


@st.composite
def steps(draw: st.DrawFn) -> ModelWork:
    return ModelWork(
        tokens=draw(st.integers(2, 70000)),
        batch=draw(st.integers(1, 9)),
        weight_bytes=draw(st.sampled_from([2, 4])),
        attention=draw(st.sampled_from(ATTENTIONS)),
        checkpointing=draw(st.sampled_from(CHECKPOINTINGS)),
        training=draw(st.sampled_from(OPTIMIZERS)),
    )


def parts(found: Footprint) -> list[int]:
    return [size for size in astuple(found) if isinstance(size, int)]


def test_llama_3_70b_caches_320_kib_a_token_in_bf16() -> None:
    assert kv_cache_bytes(model_shape("70b"), ModelWork(tokens=1)) == 320 * KIB
    assert kv_cache_bytes(model_shape("70b"), ModelWork(tokens=32768)) == 10 * GIB


def test_48_gib_is_the_fp16_cache_of_the_40b_shape_at_32k() -> None:
    assert kv_cache_bytes(model_shape("40b"), ModelWork(tokens=1)) == 1.5 * MIB
    assert kv_cache_bytes(model_shape("40b"), ModelWork(tokens=32768)) == 48 * GIB


def test_llama_3_70b_has_16_gib_of_fp32_logits_at_32k_and_half_a_mib_for_the_last_token_alone() -> None:
    shape = model_shape("70b")
    work = ModelWork(tokens=32768, weight_bytes=4)
    hidden = 32768 * 8192 * 4
    logits = logits_bytes(shape, work) - hidden
    assert logits == 32768 * 128256 * 4
    assert logits / GIB == pytest.approx(15.66, abs=0.005)
    assert logits_bytes(shape, replace(work, all_logits=False)) - hidden == 128256 * 4


def test_eight_bit_kv_halves_the_cache_and_nothing_else() -> None:
    work = ModelWork(tokens=32768)
    whole, half = (
        footprint(model_shape("70b"), work),
        footprint(model_shape("70b"), replace(work, kv_bytes=1)),
    )
    assert half.kv_cache * 2 == whole.kv_cache
    assert replace(half, kv_cache=whole.kv_cache) == whole


@pytest.mark.parametrize(("gpus", "share"), [(1, 1), (2, 2), (8, 8), (16, 8), (64, 8)])
def test_above_the_kv_heads_tensor_parallelism_replicates_the_cache(gpus: int, share: int) -> None:
    shape, work = model_shape("70b"), ModelWork(tokens=32768)
    assert kv_cache_bytes(shape, replace(work, tensor_parallel=gpus)) == kv_cache_bytes(shape, work) // share


def test_kv_heads_that_do_not_divide_evenly_are_rounded_up() -> None:
    shape = replace(model_shape("tiny"), heads=12, kv_heads=6)
    one = kv_cache_bytes(shape, ModelWork(tokens=10)) // 6
    assert kv_cache_bytes(shape, ModelWork(tokens=10, tensor_parallel=4)) == 2 * one


@pytest.mark.parametrize("preset", PRESETS)
def test_on_one_gpu_the_weights_are_all_parameters(preset: str) -> None:
    shape = model_shape(preset)
    assert weight_bytes(shape, ModelWork(tokens=1)) == 2 * shape.parameters


def test_activations_and_logits_are_not_counted_twice() -> None:
    found = footprint(model_shape("8b"), ModelWork(tokens=4096))
    assert found.logits > found.activations
    assert found.total == found.weights + found.kv_cache + found.logits


@given(shapes(), works() | steps(), st.integers(1, 5000), st.integers(1, 4))
def test_more_tokens_or_more_sequences_never_take_less_memory(
    shape: ModelShape, work: ModelWork, tokens: int, batch: int
) -> None:
    now = footprint(shape, work)
    for more in (replace(work, tokens=work.tokens + tokens), replace(work, batch=work.batch + batch)):
        then = footprint(shape, more)
        if work.training is None:
            assert all(after >= before for before, after in zip(parts(now), parts(then), strict=True))
        assert then.total > now.total


@given(shapes(), works(), st.data())
def test_splitting_over_more_gpus_never_raises_a_part_but_the_gathered_logits(
    shape: ModelShape, work: ModelWork, data: st.DataObject
) -> None:
    # A vocabulary that the GPUs do not divide is not split at all.
    divisors = [n for n in range(1, shape.heads + 1) if shape.heads % n == 0 and shape.vocab % n == 0]
    few, many = sorted((data.draw(st.sampled_from(divisors)), data.draw(st.sampled_from(divisors))))
    found = [
        parts(replace(footprint(shape, replace(work, tensor_parallel=gpus)), logits=0))
        for gpus in (few, many)
    ]
    assert all(after <= before for before, after in zip(*found, strict=True))


@given(shapes(), works())
def test_chunks_add_no_more_than_their_mask_the_repeated_keys_and_one_layers_cache(
    shape: ModelShape, work: ModelWork
) -> None:
    naive = footprint(shape, replace(work, chunk=None))
    chunk = min(work.chunk or work.tokens, work.tokens)
    mask = chunk * work.tokens * (1 + work.batch * work.weight_bytes)
    repeated = 2 * shape.heads * shape.head_dim * work.tokens * work.batch * work.weight_bytes
    one_layer = 2 * shape.kv_heads * shape.head_dim * chunk * work.batch * work.weight_bytes
    chunked = footprint(shape, work)
    assert chunked.total <= naive.total + mask + repeated + one_layer
    assert chunked.logits <= naive.logits
    assert (chunked.weights, chunked.kv_cache) == (naive.weights, naive.kv_cache)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("gpus", [1, 4, 8])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_chunks_that_the_runbook_names_always_pay_at_32k(preset: str, gpus: int, batch: int) -> None:
    naive = ModelWork(tokens=32768, batch=batch, all_logits=False, tensor_parallel=gpus)
    shape = model_shape(preset)
    for chunk in (512, 2048):
        assert activations(shape, replace(naive, chunk=chunk)) < activations(shape, naive)


def test_a_chunk_nearly_as_long_as_the_prompt_costs_more_than_none() -> None:
    shape, work = model_shape("70b"), ModelWork(tokens=32768, tensor_parallel=8, all_logits=False)
    assert footprint(shape, replace(work, chunk=32767)).total > footprint(shape, work).total


@given(shapes(), works())
def test_a_chunk_as_long_as_the_prompt_is_no_chunk(shape: ModelShape, work: ModelWork) -> None:
    whole = footprint(shape, replace(work, chunk=None))
    assert footprint(shape, replace(work, chunk=work.tokens)) == whole
    assert footprint(shape, replace(work, chunk=work.tokens + 1)) == whole


@pytest.mark.parametrize(
    ("name", "gib"),
    [("B200", 176.35), ("H200", 137.72), ("H100", 77.10), ("H100-NVL", 91.02), ("B300", 265.69)],
)
def test_a_model_gets_what_a_board_shows_less_the_overhead(name: str, gib: float) -> None:
    board = board_named(name)
    assert board is not None
    assert board_budget(board) / GIB == pytest.approx(gib, abs=0.01)


def test_adamw_in_training_holds_four_times_the_weights_and_sgd_twice() -> None:
    shape = model_shape("8b")
    for optimizer, times in zip(OPTIMIZERS, (4, 2), strict=True):
        found = footprint(shape, ModelWork(tokens=2, training=optimizer))
        assert found.moment == "the end of the backward"
        assert found.total == pytest.approx(times * found.weights, rel=0.001)


@given(shapes(), steps())
def test_checkpointing_more_never_takes_more(shape: ModelShape, work: ModelWork) -> None:
    totals = [footprint(shape, replace(work, checkpointing=mode)).logits for mode in ("none", "full")]
    assert totals[1] <= totals[0] + work.tokens**2 * work.batch * work.weight_bytes


@given(shapes(), works() | steps(), st.integers(0, 2**36))
def test_the_longest_prompt_fits_and_one_token_more_does_not(
    shape: ModelShape, work: ModelWork, budget: int
) -> None:
    most = longest(shape, work, budget, margin=0)
    if most:
        assert footprint(shape, replace(work, tokens=most)).total <= budget
    if most < shape.max_positions:
        assert footprint(shape, replace(work, tokens=most + 1)).total > budget
    assert longest(shape, work, budget) <= most


@given(shapes(), works() | steps(), st.integers(0, 2**36))
def test_remedies_save_what_they_say_and_those_that_fit_come_first(
    shape: ModelShape, work: ModelWork, budget: int
) -> None:
    now = footprint(shape, work).total
    ranked = memory_remedies(shape, work, budget)
    for one in ranked:
        after = footprint(shape, one.work).total
        assert one.saves == now - after > 0
        assert one.fits == (after <= budget)
    assert [one.fits for one in ranked] == sorted((one.fits for one in ranked), reverse=True)
    first, every = first_remedy(shape, work, budget), together(shape, work, budget)
    assert (first is None) == (every is None or not every.fits)
    if ranked and ranked[0].fits:
        assert first == ranked[0]


def test_no_remedy_is_offered_twice() -> None:
    work = ModelWork(65536, all_logits=False, chunk=2048, kv_bytes=1, tensor_parallel=8)
    assert memory_remedies(model_shape("70b"), work, 0) == []
    assert together(model_shape("70b"), work, 0) is None
    training = ModelWork(65536, checkpointing="full", tensor_parallel=8, training="adamw")
    assert first_remedy(model_shape("70b"), training, 2**60) is None


def test_only_eager_attention_grows_with_the_square() -> None:
    shape = model_shape("8b")
    terms = (None, "attention scores (heads × tokens × tokens)")
    for attention, term in zip(ATTENTIONS, terms, strict=True):
        work = ModelWork(tokens=1, attention=attention)
        assert quadratic_term(work) == term
        half, whole = (footprint(shape, replace(work, tokens=n)).total for n in (65536, 131072))
        weights = weight_bytes(shape, work)
        grown = (whole - weights) / (half - weights)
        assert grown == pytest.approx(4 if term else 2, rel=0.02)


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_the_largest_batch_of_a_training_step_fits_and_one_more_does_not(batch: int) -> None:
    shape, work = model_shape("tiny"), ModelWork(2048, training="adamw")
    budget = footprint(shape, replace(work, batch=batch)).total if batch else weight_bytes(shape, work)
    assert largest_batch(shape, work, budget) == batch
