"""Prefill and greedy decoding with a static KV cache, step by step."""

from typing import TYPE_CHECKING, Any

from runner.kit.compile_guard.modes import compile_in_place
from runner.kit.compile_options import Mode
from runner.kit.transformer import build_model, usual_type
from runner.sizing.models import ModelShape

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
        self._step = decoding_step(model, max_length)
        if mode is Mode.WHOLE:
            compile_whole(self._step)
        else:
            compile_in_place(model, mode)

    def prefill(self, prompt: "torch.Tensor") -> "torch.Tensor":
        """Reset the cache, read the prompt [batch, tokens], return the first new token [batch, 1]."""
        import torch

        self._step.cache.reset()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            token: torch.Tensor = self._step.forward(prompt)[0]
        return token

    def step(self, token: "torch.Tensor") -> "torch.Tensor":
        """Append a token [batch, 1] to each sequence and return the next [batch, 1]."""
        import torch

        with torch.no_grad():
            chosen: torch.Tensor = self._step(token)[0]
        # The next replay of a graph overwrites its output.
        return chosen.clone()

    def generate(self, prompt: "torch.Tensor", new_tokens: int) -> "torch.Tensor":
        """The new tokens [batch, new_tokens] that follow the prompt."""
        import torch

        tokens = [self.prefill(prompt)]
        while len(tokens) < new_tokens:
            tokens.append(self.step(tokens[-1]))
        return torch.cat(tokens, dim=1)

    def cached(self) -> "list[torch.Tensor]":
        """The cache's tensors after a prefill: keys and values [batch, kv heads, max_length, head_dim]."""
        return [tensor for layer in self._step.cache.layers for tensor in (layer.keys, layer.values)]


def decoding_step(model: Any, max_length: int) -> Any:
    """A module that appends tokens [batch, n] to its KV cache; returns the next [batch, 1] and its logits.

    One class for the decoder and for the compile guard, so that both compile the same graph, and the second compile
    finds it in the cache of the first. It has the attributes `model` and `cache`.

    Args:
        model: a causal language model in eval mode.
        max_length: length of the static cache in tokens.
    """
    import torch
    from transformers import StaticCache

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.cache: Any = StaticCache(config=model.config, max_cache_len=max_length)

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits: torch.Tensor = self.model(tokens, past_key_values=self.cache, logits_to_keep=1).logits
            return logits[:, -1:].argmax(dim=-1), logits

    return Step().eval()


def compile_whole(step: Any) -> None:
    """Make a step compile as one graph at its next call, on a GPU with CUDA graphs."""
    graphs = "reduce-overhead" if step.model.device.type == "cuda" else "default"
    step.compile(mode=graphs, fullgraph=True, dynamic=False)


def build_step(
    *, shape: dict[str, Any], device: str, batch_size: int, max_length: int
) -> tuple[Any, tuple[Any, ...]]:
    """One decoding step for the compile guard: a module that maps a token to the next and its logits, and the token.

    Args:
        shape: the fields of a `ModelShape`.
        device: `cpu` (fp32) or `cuda` (bf16).
        batch_size: batch size in sequences.
        max_length: length of the static cache in tokens.
    """
    import torch

    # With CUDA graphs, the second call captures and the third replays.
    calls = 3 if device == "cuda" else 1

    class Repeated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            built = build_model(ModelShape(**shape), usual_type(device), device)
            self.step = decoding_step(built, max_length)

        def compile(self, *_: Any, **__: Any) -> None:
            compile_whole(self.step)

        def forward(self, token: torch.Tensor) -> Any:
            for _ in range(calls):
                # Every call must return the same output.
                self.step.cache.reset()
                output = self.step(token)
            return output

    module, token = Repeated().eval(), torch.zeros(batch_size, 1, dtype=torch.long, device=device)
    with torch.no_grad():
        # The cache gets its tensors in the first call, which in the decoder is an eager prefill.
        module.step(token)
    return module, (token,)
