from typing import Any

import pytest
import torch

from runner.models import ModelShape
from runner.probes.compile_guard.spec import Mode
from runner.probes.decode.loop import Decoder
from runner.probes.transformer import build_model
from tests.greedy import assert_same_choices

SHAPE = ModelShape("test", 2, 64, 4, 2, 16, 128, 512, 1024)
UNGATED = ModelShape("ungated", 2, 64, 4, 4, 16, 128, 512, 1024, gated_mlp=False)


def model_of(shape: ModelShape) -> Any:
    # A wide spread of weights: narrow ones make greedy decoding repeat a few tokens, which proves little.
    return build_model(shape, torch.float32, "cpu", initializer_range=0.3)


def prompts(batch: int) -> torch.Tensor:
    return torch.randint(0, SHAPE.vocab, (batch, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [SHAPE, UNGATED], ids=["gated", "ungated"])
@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_tokens_equal_transformers_own_generate(shape: ModelShape, batch: int) -> None:
    model, prompt = model_of(shape), prompts(batch)
    expected = model.generate(prompt, max_new_tokens=32, do_sample=False)[:, prompt.shape[1] :]
    ours = Decoder(model, prompt.shape[1] + 32).generate(prompt, 32)
    assert len(set(expected.flatten().tolist())) > 8
    assert ours.tolist() == expected.tolist()


def test_a_second_prompt_sees_nothing_of_the_first() -> None:
    model, prompt = model_of(SHAPE), prompts(1)
    decoder = Decoder(model, 64)
    first = decoder.generate(prompt, 16)
    decoder.generate(torch.flip(prompt, dims=(1,)), 16)
    assert torch.equal(decoder.generate(prompt, 16), first)


# Inductor's own modules use what torch deprecates; as an error the warning would end the compile.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.system
@pytest.mark.parametrize("mode", [Mode.WHOLE, Mode.PER_BLOCK])
def test_compiled_steps_choose_the_tokens_that_generate_chooses(mode: Mode) -> None:
    model, prompt = model_of(SHAPE), prompts(1)
    expected = model.generate(prompt, max_new_tokens=16, do_sample=False)[:, prompt.shape[1] :]
    eager: Any = Decoder(model, 64).generate(prompt, 16)
    assert eager.tolist() == expected.tolist()
    compiled = Decoder(model_of(SHAPE), 64, mode).generate(prompt, 16)
    assert_same_choices(model, prompt, compiled)


def test_a_wrong_token_is_no_same_choice() -> None:
    model, prompt = model_of(SHAPE), prompts(1)
    tokens = Decoder(model, 64).generate(prompt, 16)
    assert_same_choices(model, prompt, tokens)
    tokens[0, 7] = (tokens[0, 7] + 1) % SHAPE.vocab
    with pytest.raises(AssertionError):
        assert_same_choices(model, prompt, tokens)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = build_model(SHAPE, torch.float32, "cpu", seed=5)
    torch.manual_seed(2)
    two = build_model(SHAPE, torch.float32, "cpu", seed=5)
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("shape", [SHAPE, UNGATED], ids=["gated", "ungated"])
def test_the_built_model_has_the_shapes_parameters(shape: ModelShape) -> None:
    model = build_model(shape, torch.bfloat16, "meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
