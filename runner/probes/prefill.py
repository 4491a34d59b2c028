"""Prefills prompts of growing length and measures the peak memory of each, under a limit that is enforced."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.errors import RunbookError
from runner.models import ModelShape
from runner.probes.allocations import OverBudgetError, follow
from runner.probes.transformer import build_model
from runner.sizing import Work


@dataclass(frozen=True)
class Reached:
    """How one prompt went: bytes at the peak, bytes of the KV cache, seconds, share read, and what stopped it."""

    peak: int
    kv: int
    seconds: float
    done: float
    over: str | None


class Prefill:
    """A model with random weights that reads prompts into a KV cache of their length.

    On a GPU the peak is the caching allocator's and the limit is set there; on a CPU host both are kept by following
    every storage.

    Raises:
        RunbookError: it is to run on a GPU, and torch cannot use one.
    """

    def __init__(self, shape: ModelShape, work: Work, budget: int | None, *, gpu: bool) -> None:
        import torch

        if gpu and not torch.cuda.is_available():
            raise RunbookError(
                "this host has a GPU that torch cannot use; install a CUDA build, or look at the driver"
            )
        self._work, self._budget, self._cuda = work, budget, gpu
        self.device = "cuda" if self._cuda else "cpu"
        if self._cuda and budget is not None:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total))
        dtype = {2: torch.bfloat16, 4: torch.float32}[work.weight_bytes]
        self._model = build_model(shape, dtype, self.device)
        # The output matrix counts as a step as well: a prompt can get through all blocks and die at its logits.
        self._steps = (*self._model.model.layers, self._model.lm_head)
        self._passed = 0
        for module in self._steps:
            module.register_forward_hook(self._step_done)
        self._checkpoint = False
        for layer in self._model.model.layers:
            layer.forward = partial(self._block, layer.forward)

    def _step_done(self, *_: Any) -> None:
        self._passed += 1

    def _block(self, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """One block, its activations checkpointed where that is asked for, as one does in training."""
        from torch.utils.checkpoint import checkpoint

        if not self._checkpoint:
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)

    def run(self, tokens: int, *, checkpoint: bool = False) -> Reached:
        """Read one prompt, with activation checkpointing or without; running out of memory is a result."""
        import torch

        self._passed, self._checkpoint = 0, checkpoint
        chunk = min(self._work.chunk or tokens, tokens)
        steps = -(-tokens // chunk) * len(self._steps)
        follower = None if self._cuda else follow(self._budget)
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        kv, over = 0, None
        try:
            kv = self._read(tokens, chunk, follower)
        except (OverBudgetError, torch.OutOfMemoryError) as error:
            over = str(error).splitlines()[0]
        if self._cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated() if follower is None else follower.peak
        # What a failed prompt left behind must not count for the next one.
        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()
        return Reached(int(peak), kv, seconds, 1.0 if over is None else self._passed / steps, over)

    def _read(self, tokens: int, chunk: int, follower: Any) -> int:
        """Prefill chunk by chunk; the bytes that the cache's tensors hold at the end."""
        import contextlib

        import torch
        from transformers import DynamicCache, StaticCache

        prompt = torch.zeros(self._work.batch, tokens, dtype=torch.long, device=self.device)
        # A cache that grows copies itself; in chunks it is laid out once, as a server does.
        whole = chunk >= tokens
        cache: Any = (
            DynamicCache(config=self._model.config)
            if whole
            else StaticCache(config=self._model.config, max_cache_len=tokens)
        )
        keep = 0 if self._work.all_logits else 1
        with torch.no_grad(), follower or contextlib.nullcontext():
            if follower is not None:
                follower.add(*self._model.parameters(), *self._model.buffers())
            for start in range(0, tokens, chunk):
                self._model(prompt[:, start : start + chunk], past_key_values=cache, logits_to_keep=keep)
            return sum(
                tensor.untyped_storage().nbytes()
                for layer in cache.layers
                for tensor in (layer.keys, layer.values)
            )
