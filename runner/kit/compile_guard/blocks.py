"""The repeated blocks of a model alone, for compiling without a second copy of the model's weights.

The model is built and run once with torch's fake tensors, which have shapes but no memory, so a model of tens of
gigabytes costs a second and some kilobytes. The inputs of each block are recorded. Then one block of each kind gets
real memory with random values, and an input of the recorded shape. Compiling it fills the cache for the whole model,
because the graph of a block does not depend on the values of its weights.
"""

import copy
from collections.abc import Callable
from typing import Any

from runner.base.errors import InputError
from runner.kit.compile_guard.modes import blocks_of

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""A module, and the arguments and keyword arguments to call it with."""

_PLAIN = (bool, int, float, str, type(None))
# random numbers cannot be drawn in other types (such as FP8); those are drawn in float32 and converted
_DRAWN = ("float64", "float32", "bfloat16", "float16")


def lay_out(build: Callable[[], tuple[Any, tuple[Any, ...]]], *, backward: bool) -> tuple[list[Call], int]:
    """Find the kinds of blocks that a model repeats, and allocate one of each.

    Blocks are of one kind if their parameters and inputs have equal shapes, strides, types and devices. An object among
    the arguments, such as a KV cache, is copied as the first block of the kind received it, with real tensors.

    Args:
        build: builds the model and its inputs; it runs with fake tensors, so it may not read their values.
        backward: whether gradients are needed.

    Returns:
        A call for each kind, in the order in which the model runs them, and the parameters of the whole model. No
        call if the model has no repeated blocks.

    Raises:
        InputError: the model does not call its blocks, or passes a module to them.
    """
    from unittest import mock

    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    seen: dict[Any, Call] = {}

    def note(block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        # Copied now: a cache that is passed from block to block changes on the way.
        kind = _kind(block, inputs, named)
        if kind not in seen:
            seen[kind] = (block, _mapped(inputs, _same), _mapped(named, _same))

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, mock.patch.object(torch.nn.Module, "_apply", _converted), torch.set_grad_enabled(backward):
        model, inputs = build()
        hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks_of(model)]
        if hooks:
            model(*inputs)
    for hook in hooks:
        hook.remove()
    if hooks and not seen:
        raise InputError(f"{type(model).__name__} has repeated blocks, but its forward does not call them")
    total = sum(parameter.numel() for parameter in model.parameters())
    torch.manual_seed(0)
    return [_real_call(*call) for call in seen.values()], total


def _converted(module: Any, convert: Callable[[Any], Any], recurse: bool = True) -> Any:
    """As `nn.Module.to`, but with new parameters: torch would swap tensors, and fake tensors cannot be swapped."""
    from torch import nn

    if recurse:
        for child in module.children():
            _converted(child, convert)
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(convert(parameter.detach()), parameter.requires_grad))
    for name, buffer in list(module.named_buffers(recurse=False)):
        setattr(module, name, convert(buffer))
    return module


def _kind(block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    plain = [named for module in block.modules() for named in _plain_tensors(module)]
    held = [*block.named_parameters(), *block.named_buffers(), *plain]
    described = tuple((name, _shape(tensor)) for name, tensor in held)
    return type(block), described, repr(_described(inputs)), repr(_described(named))


def _plain_tensors(module: Any) -> list[tuple[str, Any]]:
    """Tensors held as plain attributes, such as quantised weights, which `Module.to` does not move."""
    import torch

    return [(name, value) for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


def _same(tensor: Any) -> Any:
    return tensor


def _shape(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def _real_call(block: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Call:
    from torch import nn

    memory: dict[int, Any] = {}

    def real(tensor: Any) -> Any:
        if id(tensor) not in memory:
            memory[id(tensor)] = _as_static_as(tensor, _random(tensor))
        return memory[id(tensor)]

    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(real(parameter).detach(), parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, real(buffer))
        for name, tensor in _plain_tensors(module):
            setattr(module, name, real(tensor))
    return block, _mapped(inputs, real), _mapped(named, real)


def _random(tensor: Any) -> Any:
    """A tensor of this shape and strides: random numbers scaled to keep sums near 1, or zeros.

    A quantised weight that is a tensor of tensors keeps its type: its parts are drawn.
    """
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        parts = {name: _random(getattr(tensor, name)) for name in names}
        return type(tensor).__tensor_unflatten__(parts, context, tensor.shape, tensor.stride())
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    if not tensor.is_floating_point():
        return made.fill_(tensor.dtype is torch.bool)
    spread = tensor.shape[-1] ** -0.5 if tensor.dim() > 1 and tensor.shape[-1] else 1.0
    if str(tensor.dtype).removeprefix("torch.") in _DRAWN:
        made.normal_(0.0, spread)
    else:
        made.copy_(torch.randn(tensor.shape, device=tensor.device) * spread)
    return made.requires_grad_(tensor.requires_grad)


def _as_static_as(tensor: Any, made: Any) -> Any:
    """Mark it as being at a fixed address, as a KV cache is, if the tensor is: its graph is another one then."""
    import torch

    if hasattr(tensor, "_dynamo_static_input_type"):
        torch._dynamo.mark_static_address(made)  # noqa: SLF001 - torch's function for it has no public name
    return made


def _mapped(value: Any, change: Callable[[Any], Any], done: dict[int, Any] | None = None) -> Any:
    """A copy of an argument with every tensor in it mapped: in sequences, mappings, and objects such as a KV cache.

    Raises:
        InputError: it contains a module.
    """
    import torch

    done = {} if done is None else done
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, torch.nn.Module):
        raise InputError(f"a block takes a {type(value).__name__}, which cannot be built without the model")
    if id(value) in done:
        return done[id(value)]
    if type(value) in {tuple, list}:
        return type(value)(_mapped(item, change, done) for item in value)
    if type(value) is dict:
        return {key: _mapped(item, change, done) for key, item in value.items()}
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return value
    done[id(value)] = copied = copy.copy(value)
    for name, item in vars(value).items():
        vars(copied)[name] = _mapped(item, change, done)
    return copied


def _described(value: Any) -> Any:
    """The key that distinguishes arguments: the shape of a tensor, the type of an object, since its state changes."""
    import torch

    if isinstance(value, torch.Tensor):
        return _shape(value)
    if type(value) in {tuple, list}:
        return tuple(_described(item) for item in value)
    if type(value) is dict:
        return tuple((key, _described(item)) for key, item in value.items())
    return value if isinstance(value, _PLAIN) else str(type(value))
