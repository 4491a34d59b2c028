"""KV caches of the prompt's length, in the weights' type or in a narrower one that is read through a copy."""

from typing import TYPE_CHECKING, Any

from runner.sizing.work import ModelWork

if TYPE_CHECKING:
    import torch


def kv_type(kv_bytes: int) -> "torch.dtype":
    """The type of a cache element of this many bytes: FP8 (e4m3), bf16 or fp32."""
    import torch

    return {1: torch.float8_e4m3fn, 2: torch.bfloat16, 4: torch.float32}[kv_bytes]


def new_cache(config: Any, work: ModelWork) -> Any:
    """An empty transformers cache for one prompt.

    A growing cache copies itself; for a prompt in chunks it is allocated once, as in a server.
    """
    from transformers import Cache, DynamicCache, StaticCache

    whole = work.chunk is None or work.chunk >= work.tokens
    if work.kv_bytes != work.weight_bytes:
        kind = kv_type(work.kv_bytes)
        layers = range(config.num_hidden_layers)
        return Cache(layers=[_narrow(kind, None if whole else work.tokens) for _ in layers])
    return DynamicCache(config=config) if whole else StaticCache(config=config, max_cache_len=work.tokens)


def cache_bytes(cache: Any) -> int:
    """Bytes of the storages of a cache's keys and values; layers that were not reached hold none."""
    return sum(
        tensor.untyped_storage().nbytes()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    )


def _narrow(kind: "torch.dtype", most: int | None) -> Any:
    """One layer in another type, allocated for `most` tokens, or for the length of the only prompt."""
    import torch
    from transformers import cache_utils

    # The library is typed, but not for subclassing.
    dynamic_layer: Any = cache_utils.DynamicLayer
    static_layer: Any = cache_utils.StaticLayer

    class WholeLayer(dynamic_layer):  # type: ignore[misc] # as above
        """Takes the whole prompt in one update."""

        keys: Any
        values: Any

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            self.dtype, self.device, self.is_initialized = kind, key_states.device, True
            self.keys, self.values = key_states.to(kind), value_states.to(kind)
            return self.keys.to(key_states.dtype), self.values.to(value_states.dtype)

    class LaidOutLayer(static_layer):  # type: ignore[misc] # as above
        """Takes a prompt in chunks."""

        keys: Any
        values: Any
        filled = 0

        def _lay_out(self, key_states: Any) -> None:
            self.dtype, self.device, self.is_initialized = kind, key_states.device, True
            size = (*key_states.shape[:2], self.max_cache_len, key_states.shape[-1])
            self.keys = torch.zeros(size, dtype=kind, device=self.device)
            self.values = torch.zeros(size, dtype=kind, device=self.device)

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self._lay_out(key_states)
            end = self.filled + key_states.shape[-2]
            # index_copy_ does not support FP8; slice assignment does.
            self.keys[:, :, self.filled : end].copy_(key_states)
            self.values[:, :, self.filled : end].copy_(value_states)
            self.filled = end
            self.cumulative_length.fill_(end)
            return self.keys.to(key_states.dtype), self.values.to(value_states.dtype)

    return WholeLayer() if most is None else LaidOutLayer(max_cache_len=most)
