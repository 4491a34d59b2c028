"""The GPU's branches of the compile probes and of the traced work, on tensors that have a device but no memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from runner.kit.compile_guard.blocks import _converted
from runner.kit.probe import NotApplicableError
from runner.kit.repro import block_stack
from runner.kit.repro.growing_models import chain, one_sum, wide_stack
from runner.kit.repro.stack_size import SIZES
from runner.kit.traced_work import SHAPES, operations

FP8_RATES = {"8b": 2 * 4096**3, "40b": 2 * 4096 * 8192**2, "70b": 2 * 4096 * 8192**2}

cuda_build = pytest.mark.skipif(
    torch.version.cuda is None, reason="a torch without CUDA moves nothing to a GPU, not even fake tensors"
)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    # torch cannot swap fake tensors in `Module.to`.
    monkeypatch.setattr(torch.nn.Module, "_apply", _converted)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def stack_of(preset: str) -> tuple[Any, tuple[Any, ...]]:
    size = SIZES[preset]
    return block_stack.build(
        blocks=2, width=size.width, heads=size.heads, hidden=size.hidden, tokens=size.tokens, device="cuda"
    )


@cuda_build
@pytest.mark.parametrize("preset", SIZES)
def test_a_stack_on_a_gpu_is_bf16_and_answers_there(preset: str, fake: FakeTensorMode) -> None:
    del fake
    model, (given,) = stack_of(preset)
    answer = model(given)
    assert (answer.device.type, answer.dtype, answer.shape) == ("cuda", torch.bfloat16, given.shape)


@pytest.mark.parametrize(
    "build",
    [
        lambda: chain(turns=5, device="cuda"),
        lambda: one_sum(device="cuda"),
        pytest.param(lambda: wide_stack(width=26432, device="cuda"), marks=cuda_build),
        pytest.param(lambda: stack_of("tiny"), marks=cuda_build),
    ],
    ids=["chain", "sum", "wide stack", "stack"],
)
def test_what_is_compiled_on_a_gpu_is_one_graph_there(
    build: Callable[[], tuple[Any, tuple[Any, ...]]], fake: FakeTensorMode
) -> None:
    del fake
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    model, inputs = build()
    with torch.no_grad():
        expected = model(*inputs)
        model.compile(backend=keep, fullgraph=True)
        answer = model(*inputs)
    (graph,) = graphs
    values = (node.meta.get("example_value") for node in graph.graph.nodes)
    assert {value.device.type for value in values if isinstance(value, torch.Tensor)} == {"cuda"}
    assert (answer.shape, answer.dtype) == (expected.shape, expected.dtype)


@cuda_build
@pytest.mark.parametrize("preset", FP8_RATES)
def test_the_traced_work_of_a_gpu_has_its_shapes(
    preset: str, fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    del fake
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    shape = SHAPES[preset]
    product, attention = operations(shape, "cuda", compiled=False)
    assert (product.name, product.flops) == ("fp8_matmul", FP8_RATES[preset])
    done = product.run()
    assert (tuple(done.shape), done.dtype, done.device.type) == (
        (shape.tokens, shape.width),
        torch.bfloat16,
        "cuda",
    )
    assert tuple(attention.run().shape) == (1, shape.heads, shape.tokens, shape.head_width)


def test_a_gpu_without_fp8_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    with pytest.raises(NotApplicableError, match="A100-SXM4-80GB has no FP8 tensor cores"):
        operations(SHAPES["8b"], "cuda", compiled=False)
