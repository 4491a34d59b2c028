"""Attention with a row of the mask all masked: by hand, where a softmax of -inf alone is NaN, and by SDPA."""

import random
from typing import TYPE_CHECKING, Any

from runner.guards.nonfinite import NonFiniteGuard, Place
from runner.kit.probe import single
from runner.kit.steps.nonfinite.drilled import Drilled

if TYPE_CHECKING:
    import torch

_BATCH, _TOKENS, _WIDTH, _BLOCKS = 2, 16, 32, 3


def drill_masked_row(seed: int, fault: str) -> Drilled:
    """Mask one row of one sequence in one block that computes its attention by hand; SDPA gets the same mask."""
    import torch

    chosen = random.Random(seed)  # noqa: S311 - a choice that can be repeated, not a secret
    device = "cuda" if torch.cuda.is_available() else "cpu"
    block, row = chosen.randrange(_BLOCKS), chosen.randrange(_TOKENS)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(_BATCH, _TOKENS, _WIDTH, generator=generator).to(device)
    mask = torch.zeros(_BLOCKS, _TOKENS, _TOKENS, device=device)
    mask[block, row] = float("-inf")
    counts: dict[str, int] = {}
    places: dict[str, Place | None] = {}
    for kind in ("softmax", "sdpa"):
        torch.manual_seed(seed)
        model = attention_stack(kind).to(device)
        with NonFiniteGuard(model) as guard:
            output = model(values, mask)
            output.square().mean().backward()
            found = guard.check()
        counts[kind] = int((~torch.isfinite(output)).any(dim=-1).sum())
        places[kind] = found.place if found else None
    expected = Place("output", f"blocks.{block}.softmax")
    named = places == {"softmax": expected, "sdpa": None}
    return Drilled(
        fault,
        named=named,
        findings=sum(one is not None for one in places.values()),
        steps=2,
        sentence=f"row {row} of block {block} all masked: named is {places['softmax']}; with SDPA, {places['sdpa']}",
        measurements=tuple(
            single("nonfinite_rows", count, fault=fault, attention=kind) for kind, count in counts.items()
        ),
    )


def attention_stack(kind: str) -> Any:
    from torch import nn

    class Attention(nn.Module):
        """One head, with its softmax as a module or inside SDPA."""

        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (
                nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4)
            )
            self.softmax = nn.Softmax(dim=-1)

        def forward(self, values: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
            query, key, value = self.query(values), self.key(values), self.value(values)
            if kind == "sdpa":
                mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            else:
                scores = query @ key.transpose(-1, -2) / _WIDTH**0.5
                mixed = self.softmax(scores + mask) @ value
            result: torch.Tensor = values + self.out(mixed)
            return result

    class Stack(nn.Module):
        """Blocks, each with its own mask."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Attention() for _ in range(_BLOCKS))

        def forward(self, values: "torch.Tensor", masks: "torch.Tensor") -> "torch.Tensor":
            for block, mask in zip(self.blocks, masks, strict=True):
                values = block(values, mask)
            return values

    return Stack()
