import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from runner.kit.compile_guard import safe_compile
from runner.kit.compile_options import Mode
from runner.kit.decode.loop import Decoder, build_step, decoding_step
from runner.kit.transformer import build_model
from runner.sizing.models import ModelShape
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


class Captured:
    """A backend that compiles nothing and keeps what it was asked to compile."""

    def __init__(self) -> None:
        self.graphs: list[tuple[torch.fx.GraphModule, list[Any]]] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.graphs.append((graph, inputs))
        return graph.forward

    def moving(self) -> list[str]:
        """Tensor inputs of the only graph that are not at a fixed address: a CUDA graph copies those at each replay."""
        ((graph, inputs),) = self.graphs
        names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
        return [
            name
            for name, given in zip(names, inputs, strict=True)
            if isinstance(given, torch.Tensor) and not hasattr(given, "_dynamo_static_input_type")
        ]

    def devices(self) -> set[str]:
        """The kinds of device of every tensor in the only graph."""
        ((graph, _),) = self.graphs
        values = (node.meta.get("example_value") for node in graph.graph.nodes)
        return {value.device.type for value in values if isinstance(value, torch.Tensor)}


@torch.no_grad()
def stepped(step: Any, prompt: torch.Tensor) -> Captured:
    """A prefill in eager and three steps under a capturing backend."""
    torch.compiler.reset()
    captured = Captured()
    token, _ = step.forward(prompt)
    step.compile(backend=captured, fullgraph=True, dynamic=False)
    for _ in range(3):
        token = step(token)[0].clone()
    return captured


def test_a_step_is_one_graph_whose_only_input_at_no_fixed_address_is_the_token() -> None:
    # Inductor skips CUDA graphs without an error if a step changes an input whose address may change.
    captured = stepped(decoding_step(model_of(SHAPE), 64), prompts(1))
    assert captured.moving() == ["l_tokens_"]


@pytest.mark.skipif(torch.version.cuda is None, reason="fake GPU tensors need a torch with CUDA")
def test_a_step_on_a_gpu_has_no_tensor_on_the_cpu() -> None:
    # Inductor skips CUDA graphs without an error if any tensor of the graph is on the CPU.
    model = build_model(SHAPE, torch.bfloat16, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                made = torch.empty(weight.shape, dtype=weight.dtype)
                setattr(module, name, torch.nn.Parameter(made, requires_grad=False))
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        captured = stepped(decoding_step(model, 64), torch.zeros(1, 16, dtype=torch.long))
    assert captured.devices() == {"cuda"}
    assert captured.moving() == ["l_tokens_"]


SECOND = """
import json, sys
import torch
from runner.sizing.models import ModelShape
from runner.kit.compile_guard.figures import cache_counts
from runner.kit.compile_options import Mode
from runner.kit.decode.loop import Decoder
from runner.kit.transformer import build_model

shape, mode = json.loads(sys.argv[1]), Mode(sys.argv[2])
decoder = Decoder(build_model(ModelShape(**shape), torch.float32, "cpu"), 24, mode)
decoder.generate(torch.zeros(1, 16, dtype=torch.long), 6)
print(*cache_counts())
"""


@pytest.mark.system
@pytest.mark.parametrize("mode", [Mode.WHOLE, Mode.PER_BLOCK])
def test_the_decoder_finds_every_graph_of_its_step_in_the_cache_of_the_guard(
    mode: Mode, tmp_path: Path
) -> None:
    shape = dataclasses.asdict(SHAPE)
    arguments = {"shape": shape, "device": "cpu", "batch_size": 1, "max_length": 24}
    guarded = safe_compile(build_step, arguments, mode=mode.value, folder=tmp_path, deadline_s=240)
    assert guarded.compiled is not None, guarded.reason
    done = subprocess.run(
        [sys.executable, "-c", SECOND, json.dumps(shape), mode.value],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(guarded.compiled.folder / "cache")},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    hits, misses = map(int, done.stdout.split())
    assert hits >= 1
    assert misses == 0


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
