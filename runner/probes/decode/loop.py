"""Prefill and greedy decoding with a static KV cache, step by step."""

from typing import TYPE_CHECKING, Any

from runner.models import ModelShape
from runner.probes.compile_guard.modes import compile_in_place
from runner.probes.compile_guard.spec import Mode

if TYPE_CHECKING:
    import torch


class Decoder:
    """Greedy decoding of a transformers causal model.

    The KV cache has its full size from the start, so that every step has the same shapes, as compilation and CUDA
    graphs require. Prefill is always eager: its shape occurs once.

    Args:
        model: a causal language model in eval mode; if it is sharded, each rank caches its own heads.
        max_length: maximum of prompt and new tokens together.
        mode: compile mode of the step: `whole` (on a GPU with CUDA graphs), `per-block`, or `eager`.
    """

    def __init__(self, model: Any, max_length: int, mode: Mode = Mode.EAGER) -> None:
        import torch
        from transformers import StaticCache

        self._model = model
        self._cache: Any = StaticCache(config=model.config, max_cache_len=max_length)
        self._step = self._forward
        if mode is Mode.WHOLE:
            graphs = "reduce-overhead" if model.device.type == "cuda" else "default"
            self._step = torch.compile(self._forward, mode=graphs, fullgraph=True, dynamic=False)
        else:
            compile_in_place(model, mode)

    def prefill(self, prompt: "torch.Tensor") -> "torch.Tensor":
        """Reset the cache, read the prompt [batch, tokens], return the first new token [batch, 1]."""
        import torch

        self._cache.reset()
        with torch.compiler.set_stance("force_eager"):
            return self._forward(prompt)

    def step(self, token: "torch.Tensor") -> "torch.Tensor":
        """Append a token [batch, 1] to each sequence and return the next [batch, 1]."""
        # The next replay of a graph overwrites its output.
        return self._step(token).clone()

    def generate(self, prompt: "torch.Tensor", new_tokens: int) -> "torch.Tensor":
        """The new tokens [batch, new_tokens] that follow the prompt."""
        import torch

        tokens = [self.prefill(prompt)]
        while len(tokens) < new_tokens:
            tokens.append(self.step(tokens[-1]))
        return torch.cat(tokens, dim=1)

    def cached(self) -> "list[torch.Tensor]":
        """The cache's tensors after a prefill: keys and values [batch, kv heads, max_length, head_dim]."""
        return [tensor for layer in self._cache.layers for tensor in (layer.keys, layer.values)]

    def _forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
        import torch

        with torch.no_grad():
            output = self._model(tokens, past_key_values=self._cache, logits_to_keep=1)
        chosen: torch.Tensor = output.logits[:, -1:].argmax(dim=-1)
        return chosen


def build_step(
    *, shape: dict[str, Any], device: str, batch_size: int, max_length: int
) -> tuple[Any, tuple[Any, ...]]:
    """One decoding step for the compile guard: a module that maps a token to logits, and the token.

    Args:
        shape: the fields of a `ModelShape`.
        device: `cpu` (fp32) or `cuda` (bf16).
        batch_size: batch size in sequences.
        max_length: length of the static cache in tokens.
    """
    import torch
    from transformers import StaticCache

    from runner.probes.transformer import build_model

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            dtype = torch.float32 if device == "cpu" else torch.bfloat16
            self.model = build_model(ModelShape(**shape), dtype, device)
            self.cache: Any = StaticCache(config=self.model.config, max_cache_len=max_length)

        def forward(self, token: torch.Tensor) -> torch.Tensor:
            # Two calls must return the same output.
            self.cache.reset()
            logits: torch.Tensor = self.model(token, past_key_values=self.cache).logits
            return logits

    return Step().eval(), (torch.zeros(batch_size, 1, dtype=torch.long, device=device),)
