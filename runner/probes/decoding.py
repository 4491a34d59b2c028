"""Prefill and greedy decoding with a static KV cache, a step at a time."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Decoder:
    """Greedy decoding of a transformers causal model.

    The KV cache has its full size from the start, so that every step has the same shapes: what compilation and CUDA
    graphs need.

    Args:
        model: a causal language model in eval mode.
        max_length: prompt and new tokens together, at most.
        compile_mode: mode of `torch.compile` for the step, or None for eager. Prefill is always eager: its shape is
            seen once.
    """

    def __init__(self, model: Any, max_length: int, compile_mode: str | None = None) -> None:
        import torch
        from transformers import StaticCache

        self._model = model
        self._cache: Any = StaticCache(config=model.config, max_cache_len=max_length)
        self._step = self._forward
        if compile_mode is not None:
            self._step = torch.compile(self._forward, mode=compile_mode, fullgraph=True, dynamic=False)

    def prefill(self, prompt: "torch.Tensor") -> "torch.Tensor":
        """Forget what was decoded, read the prompt [batch, tokens], return the first new token [batch, 1]."""
        self._cache.reset()
        return self._forward(prompt)

    def step(self, token: "torch.Tensor") -> "torch.Tensor":
        """Append a token [batch, 1] to each sequence and return the next [batch, 1]."""
        # A graph's output lives in memory that its next replay overwrites.
        return self._step(token).clone()

    def generate(self, prompt: "torch.Tensor", new_tokens: int) -> "torch.Tensor":
        """The new tokens [batch, new_tokens] that follow the prompt."""
        import torch

        tokens = [self.prefill(prompt)]
        while len(tokens) < new_tokens:
            tokens.append(self.step(tokens[-1]))
        return torch.cat(tokens, dim=1)

    def _forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
        import torch

        with torch.no_grad():
            output = self._model(tokens, past_key_values=self._cache, logits_to_keep=1)
        chosen: torch.Tensor = output.logits[:, -1:].argmax(dim=-1)
        return chosen
