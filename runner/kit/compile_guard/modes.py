"""Applies the rungs to a model in the current process. torch is imported inside functions."""

from collections.abc import Iterable, Mapping
from typing import Any

from runner.base.errors import InputError
from runner.kit.compile_options import Mode


def compile_in_place(model: Any, mode: Mode) -> None:
    """Make a model compile at its next forward.

    `nn.Module.compile` changes only how the module is called: names in its state dict stay. In `per-block` mode each
    repeated block is compiled; they share one code object, so the first compile serves all. `one-thread` disables
    Inductor's worker pool in this process.

    Args:
        model: an `nn.Module`.
        mode: `eager` does not change the model.

    Raises:
        InputError: `per-block` on a model without repeated blocks.
    """
    if mode is Mode.WHOLE:
        model.compile()
    elif mode is Mode.PER_BLOCK:
        for block in repeated_blocks(model):
            block.compile()
    elif mode is Mode.ONE_THREAD:
        one_thread()
        for module in blocks_of(model) or (model,):
            module.compile()


def one_thread() -> None:
    """Make this process compile without a worker pool."""
    import torch._inductor.config as inductor

    inductor.compile_threads = 1


def repeated_blocks(model: Any) -> tuple[Any, ...]:
    """The repeated blocks of a model, as returned by `blocks_of`.

    Raises:
        InputError: there are none.
    """
    found = blocks_of(model)
    if not found:
        raise InputError(
            f"{type(model).__name__} has no nn.ModuleList of equal blocks; per-block mode needs one"
        )
    return found


def blocks_of(model: Any) -> tuple[Any, ...]:
    """The repeated blocks of a model: members of the `nn.ModuleList`s whose members are all of one class.

    Lists inside such a block are part of the block and are not searched. Empty if there are none.
    """
    from torch import nn

    found: list[Any] = []

    def visit(module: Any) -> None:
        if isinstance(module, nn.ModuleList) and len({type(member) for member in module}) == 1:
            found.extend(module)
            return
        for child in module.children():
            visit(child)

    visit(model)
    return tuple(found)


def output_difference(answer: Any, expected: Any) -> float | None:
    """Largest difference of two outputs ÷ largest expected magnitude; None if not finite.

    max |a − e| ÷ max |e|, over the tensors of both outputs in order.
    """
    import torch

    worst = 0.0
    for got, wanted in zip(tensors(answer), tensors(expected), strict=True):
        scale = wanted.abs().max().float().clamp_min(torch.finfo(torch.float32).tiny)
        share = ((got.float() - wanted.float()).abs().max() / scale).item()
        if not torch.isfinite(torch.tensor(share)):
            return None
        worst = max(worst, share)
    return worst


def tensors(output: Any) -> Iterable[Any]:
    """The floating-point tensors in a model's output: a tensor, a sequence or mapping of them, a `ModelOutput`."""
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors(value)
