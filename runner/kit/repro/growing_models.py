"""The models whose compile times `compile_growth` compares: they grow in operations, or in parameters alone."""

from collections.abc import Mapping
from typing import Any

# Turns of the chain; widths of the stack. The widest of four blocks has 4 · 14.5 · 26432² = 40.5e9 parameters.
CURVE_SIZES: Mapping[str, tuple[int, ...]] = {
    "operations": (3, 5, 7),
    "parameters": (64, 512, 4096, 26432),
}
# A curve needs three points, however long they take.
ALWAYS = 3
HEAD_WIDTH = 64
_BLOCKS = 4
# Smaller allocations may reuse memory with arbitrary contents.
_FRESH_BYTES = 2**26


def chain(*, turns: int, device: str) -> tuple[Any, tuple[Any, ...]]:
    """A module that repeats `x * sin(x) + x`, each turn as a separate block, and an input for it.

    Args:
        turns: number of repetitions; three operations each.
        device: the device it runs on.
    """
    import torch
    from torch import nn

    class Turn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sin(x) + x

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turns = nn.ModuleList(Turn() for _ in range(turns))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for turn in self.turns:
                x = turn(x)
            return x

    torch.manual_seed(0)
    # Small numbers: for large arguments, sin amplifies rounding errors.
    return Chain(), (torch.rand(4096, device=device) / 10,)


def one_sum(*, device: str) -> tuple[Any, tuple[Any, ...]]:
    """A module of one operation; compiling it prepares the toolchain (headers, CPU feature detection)."""
    import torch
    from torch import nn

    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    return Sum(), (torch.ones(4096, device=device),)


def wide_stack(*, width: int, device: str) -> tuple[Any, tuple[Any, ...]]:
    """Four transformer blocks of this width with weights in untouched memory, and an input of one token.

    Args:
        width: model width; the network of a block is 3.5 times as wide.
        device: `cpu` (float32) or `cuda` (bfloat16).
    """
    import torch

    from runner.kit.repro import block_stack

    shape = {"blocks": _BLOCKS, "width": width, "heads": width // HEAD_WIDTH, "hidden": width * 7 // 2}
    model, _ = block_stack.build(**shape, tokens=1, device="meta")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for weight in model.parameters():
            if device != "cpu" or weight.nbytes < _FRESH_BYTES:
                weight.zero_()
    return model, (torch.randn(1, 1, width, dtype=dtype, device=device),)
