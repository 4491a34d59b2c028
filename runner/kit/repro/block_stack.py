"""A stack of transformer blocks with random weights, of any size, as a model to compile."""

from typing import Any


def build(
    *, blocks: int, width: int, heads: int, hidden: int, tokens: int, device: str
) -> tuple[Any, tuple[Any, ...]]:
    """Build `blocks` equal pre-norm decoder blocks and an input for them.

    Each block is causal attention and a gated SiLU network (as in Llama, without rotary embedding). Its graph has the
    same operations at any width, so the effects of blocks and of parameters on compile time can be separated.

    Args:
        blocks: number of blocks.
        width: model width d.
        heads: attention heads; must divide the width.
        hidden: width of the gated network.
        tokens: sequence length of the input, of shape (1, tokens, width).
        device: `cpu` (float32) or `cuda` (bfloat16).

    Returns:
        The module, and the arguments of its forward.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm, self.network_norm = nn.RMSNorm(width), nn.RMSNorm(width)
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.attention_out = nn.Linear(width, width, bias=False)
            self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
            self.down = nn.Linear(hidden, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, length, _ = x.shape
            shape = (batch, length, 3, heads, width // heads)
            query, key, value = self.qkv(self.attention_norm(x)).view(shape).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.attention_out(mixed.transpose(1, 2).reshape(x.shape))
            gate, up = self.gate_up(self.network_norm(x)).chunk(2, dim=-1)
            out: torch.Tensor = x + self.down(functional.silu(gate) * up)
            return out

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Block() for _ in range(blocks))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return Stack().eval(), (torch.randn(1, tokens, width),)
    finally:
        torch.set_default_dtype(default)
