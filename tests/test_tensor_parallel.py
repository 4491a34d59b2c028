import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.base.errors import InputError
from runner.kit.compile_options import Mode
from runner.kit.ranks import World
from runner.kit.tensor_parallel import check_degree, degrees, shard
from runner.kit.transformer import build_model
from runner.sizing.models import ModelShape, model_shape, parse_shape
from tests.greedy import TOLERANCE, assert_same_choices

RANK = Path(__file__).with_name("tensor_parallel_rank.py")
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
}
UNGATED = {**CONFIG, "mlp_gated": False, "vocab_size": 511}
TIED = {**CONFIG, "tie_word_embeddings": True}
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def ranks() -> Iterator[World]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with World([str(RANK), "2"], 2, environment, time.monotonic() + 500) as world:
        yield world


def prompt_of(shape: ModelShape) -> torch.Tensor:
    return torch.randint(0, shape.vocab, (2, 16), generator=torch.Generator().manual_seed(1))


def answers(
    ranks: World, config: dict[str, Any], prompt: torch.Tensor, *, late: bool = False, mode: Mode = Mode.EAGER
) -> list[dict[str, Any]]:
    return ranks.ask(
        {
            "config": config,
            "prompt": prompt.tolist(),
            "new_tokens": NEW_TOKENS,
            "late": late,
            "initializer_range": 0.3,
            "mode": mode,
        },
        "computing",
    )


def generated(model: Any, prompt: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = model.generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokens[:, prompt.shape[1] :]


@pytest.mark.system
@pytest.mark.parametrize("late", [False, True], ids=["built in shards", "cut in place"])
@pytest.mark.parametrize("config", [CONFIG, UNGATED, TIED], ids=["gated", "ungated", "tied"])
def test_two_ranks_compute_what_one_process_and_generate_compute(
    ranks: World, config: dict[str, Any], late: bool
) -> None:
    shape = parse_shape("test", config)
    model, prompt = build_model(shape, torch.float32, "cpu", initializer_range=0.3), prompt_of(shape)
    with torch.no_grad():
        expected = model(prompt).logits
    tokens = generated(model, prompt)
    assert len(set(tokens.flatten().tolist())) > 8
    for answer in answers(ranks, config, prompt, late=late):
        assert torch.allclose(torch.tensor(answer["logits"]), expected, atol=TOLERANCE)
        assert answer["tokens"] == tokens.tolist()
        assert answer["kv_heads"] == shape.kv_heads // 2


def test_a_rank_holds_half_of_what_is_cut(ranks: World) -> None:
    shape = parse_shape("test", CONFIG)
    model = build_model(shape, torch.float32, "meta")
    norms_and_embedding = sum(
        parameter.nbytes for name, parameter in model.named_parameters() if "norm" in name or "embed" in name
    )
    whole = sum(parameter.nbytes for parameter in model.parameters())
    expected = norms_and_embedding + (whole - norms_and_embedding) // 2
    assert [answer["held"] for answer in answers(ranks, CONFIG, prompt_of(shape))] == [expected, expected]


@pytest.mark.system
def test_two_ranks_choose_the_same_tokens_when_their_steps_are_compiled(ranks: World) -> None:
    shape = parse_shape("test", CONFIG)
    model, prompt = build_model(shape, torch.float32, "cpu", initializer_range=0.3), prompt_of(shape)
    for answer in answers(ranks, CONFIG, prompt, mode=Mode.WHOLE):
        assert_same_choices(model, prompt, torch.tensor(answer["tokens"]))
    assert_same_choices(model, prompt, generated(model, prompt))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("tiny", [1, 2, 4]), ("8b", [1, 2, 4, 8]), ("40b", [1, 2, 4, 8]), ("70b", [1, 2, 4, 8])],
)
def test_the_presets_can_be_cut_over_a_nodes_gpus(name: str, expected: Sequence[int]) -> None:
    assert degrees(model_shape(name), 8) == expected


@pytest.mark.parametrize(
    ("degree", "message"),
    [
        (3, "3 does not divide its 8 attention heads or its 4 key/value heads"),
        (8, "8 does not divide its 4 key/value heads; choose one of 1, 2, 4"),
        (0, "must be 1 or more, not 0"),
    ],
)
def test_a_degree_that_does_not_divide_the_heads_is_refused(degree: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_degree(model_shape("tiny"), degree)


def test_an_unknown_way_of_cutting_is_refused() -> None:
    class Mesh:
        def size(self) -> int:
            return 2

    model = build_model(parse_shape("test", CONFIG), torch.float32, "meta")
    model.config.base_model_tp_plan = {"layers.*.self_attn.q_proj": "sequence_parallel"}
    mesh: Any = Mesh()
    with pytest.raises(
        InputError, match="unsupported style 'sequence_parallel'; supported are colwise, rowwise"
    ):
        shard(model, mesh)
