"""The repeated blocks of a model by themselves: compiled without a second copy of the model's weights.

The model is built and run once under torch's fake tensors, which have shapes and no memory, so that a model of tens
of gigabytes costs a second and some kilobytes. What reaches each block is noted on the way. Then one block of each
kind gets real memory with random numbers in it, and an input of the noted shape. Compiling it fills the cache with
what the whole model needs: the graph of a block does not depend on the values of its weights.
"""

from collections.abc import Callable
from typing import Any

from runner.errors import InputError
from runner.probes.compile_guard.modes import blocks_of

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""A module, and the arguments and keyword arguments to call it with."""

_PLAIN = (bool, int, float, str, type(None))
# random numbers cannot be drawn in other types (FP8, say); those are drawn in float32 and converted
_DRAWN = ("float64", "float32", "bfloat16", "float16")


def lay_out(build: Callable[[], tuple[Any, tuple[Any, ...]]], *, backward: bool) -> tuple[list[Call], int]:
    """Find the kinds of blocks that a model repeats, and give one of each memory.

    Blocks are of one kind where their parameters and what reaches them have equal shapes, strides, types and devices.

    Args:
        build: builds the model and its inputs; it runs under fake tensors, so it may not read values out of them.
        backward: whether gradients are wanted.

    Returns:
        A call for each kind, in the order in which the model runs them, and the parameters of the whole model. No
        call where the model repeats no blocks.

    Raises:
        InputError: the model runs none of its blocks, or gives them something else than tensors and plain values.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    seen: dict[Any, Call] = {}

    def note(block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.setdefault(_kind(block, inputs, named), (block, inputs, named))

    with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(backward):
        model, inputs = build()
        hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks_of(model)]
        if hooks:
            model(*inputs)
    for hook in hooks:
        hook.remove()
    if hooks and not seen:
        raise InputError(f"{type(model).__name__} repeats blocks and its forward calls none of them")
    total = sum(parameter.numel() for parameter in model.parameters())
    torch.manual_seed(0)
    return [_real_call(*call) for call in seen.values()], total


def _kind(block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    held = [*block.named_parameters(), *block.named_buffers()]
    described = tuple((name, _shape(tensor)) for name, tensor in held)
    return type(block), described, repr(_mapped(inputs, _shape)), repr(_mapped(named, _shape))


def _shape(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def _real_call(block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Call:
    from torch import nn

    memory: dict[int, Any] = {}

    def real(tensor: Any) -> Any:
        if id(tensor) not in memory:
            memory[id(tensor)] = _random(tensor)
        return memory[id(tensor)]

    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(real(parameter).detach(), parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, real(buffer))
    return block, _mapped(inputs, real), _mapped(named, real)


def _random(tensor: Any) -> Any:
    """Memory of the tensor's shape and strides: random numbers of a size that keeps sums near 1, or zeros."""
    import torch

    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    if not tensor.is_floating_point():
        return made.fill_(tensor.dtype is torch.bool)
    spread = tensor.shape[-1] ** -0.5 if tensor.dim() > 1 and tensor.shape[-1] else 1.0
    if str(tensor.dtype).removeprefix("torch.") in _DRAWN:
        made.normal_(0.0, spread)
    else:
        made.copy_(torch.randn(tensor.shape, device=tensor.device) * spread)
    return made.requires_grad_(tensor.requires_grad)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (*_PLAIN, torch.dtype, torch.device)):
        return value
    raise InputError(
        f"a block takes a {type(value).__name__}, which cannot be made without the model; build the model so that "
        "its blocks take tensors and plain values alone (use_cache=False, say)"
    )
