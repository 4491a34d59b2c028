"""Runs prompts and training steps on one device and measures the peak memory of each, under an enforced limit."""

import contextlib
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.base.errors import InputError, RunbookError
from runner.kit.allocations import OverBudgetError, follow_allocations
from runner.kit.long_context.allocator import BACKEND, refusal, refused_reserve, used_settings
from runner.kit.long_context.cache import cache_bytes, kv_type, new_cache
from runner.kit.long_context.checkpointing import Checkpointed
from runner.kit.transformer import build_model
from runner.sizing.models import ModelShape
from runner.sizing.work import ModelWork

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_SNAPSHOT_ENTRIES = 100_000
GPU = "cuda"


@dataclass(frozen=True)
class Reached:
    """The result of one piece of work on one device.

    Attributes:
        peak: peak bytes held by tensors; 0 if not tracked.
        kv: bytes of the KV cache at the end.
        seconds: wall time; tracking memory on a CPU host, or reserving it on a GPU for the first time, also takes
            time.
        done: share of the work that was complete, 1 for all of it.
        over: what stopped it, None if nothing did.
        held: bytes by what held them when it was stopped.
        reserved, free: on a GPU: peak bytes reserved by the allocator, and free bytes of the device.
        reserve: on a GPU: bytes that were reserved and not allocated, where the work was stopped; or the peak of the
            reserved bytes minus that of the allocated ones.
    """

    peak: int
    kv: int
    seconds: float
    done: float
    over: str | None
    held: Mapping[str, int] = field(default_factory=dict)
    reserved: int | None = None
    free: int | None = None
    reserve: int | None = None


class Runs(Protocol):
    """Runs pieces of work of one model: in this process, or on ranks.

    Attributes:
        allocator: the settings that a GPU's allocator runs with; empty on a CPU host.
    """

    @property
    def allocator(self) -> Mapping[str, object]:
        """See above."""

    def run(self, work: ModelWork, *, followed: bool = True) -> tuple[Reached, ...]:
        """The result on each rank.

        Without `followed`, a CPU host has no peak and no limit, and a GPU keeps the memory that the last work reserved,
        so that the time is the work's alone.
        """


class MemoryBench:
    """A model with random weights that runs prefills or training steps.

    On a GPU, the caching allocator gives the peak and enforces the limit; on a CPU host, tracking every storage does
    both.

    Args:
        shape: of the model.
        work: gives types, batch size, and prefill or training step; the rest is passed to `run`.
        budget: bytes that tensors may hold; None for the device's memory.
        gpu: run on this process's GPU.
        mesh: ranks that share the model.
        snapshot: file for the allocator's memory snapshot when a GPU runs out of memory.

    Raises:
        RunbookError: `gpu` is set, and torch cannot use a GPU.
    """

    def __init__(
        self,
        shape: ModelShape,
        work: ModelWork,
        budget: int | None,
        *,
        gpu: bool,
        mesh: "DeviceMesh | None" = None,
        snapshot: Path | None = None,
    ) -> None:
        import torch

        if gpu and not torch.cuda.is_available():
            raise RunbookError(
                "this host has a GPU that torch cannot use; install a CUDA build of torch, or check the driver"
            )
        self._budget, self._cuda, self._snapshot = budget, gpu, snapshot if gpu else None
        self.device = GPU if gpu else "cpu"
        if gpu and budget is not None:
            total = torch.cuda.get_device_properties().total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total))
        self._model = build_model(shape, kv_type(work.weight_bytes), self.device, mesh=mesh)
        self.allocator: Mapping[str, object] = used_settings() if gpu else {}
        if self._snapshot is not None and BACKEND in self.allocator:
            raise InputError(
                f"--snapshot: the allocator {self.allocator[BACKEND]} has none; omit it, or set PYTORCH_ALLOC_CONF"
                " without backend"
            )
        self._cache: Any = None
        self._passed = 0
        self._checkpointed = Checkpointed(self._model)
        # The output matrix counts as a step too: a prompt can pass all blocks and run out of memory at its logits.
        self._steps = (*self._model.model.layers, self._model.lm_head)
        for module in self._steps:
            module.register_forward_hook(self._step_done)
        self._optimizer = self._with_state(work) if work.training is not None else None
        if self._snapshot is not None:
            torch.cuda.memory._record_memory_history(max_entries=_SNAPSHOT_ENTRIES)  # noqa: SLF001 - documented so

    def _with_state(self, work: ModelWork) -> Any:
        """The optimizer, with its state allocated, which needs a first step."""
        import torch

        self._model.requires_grad_(requires_grad=True)
        parameters = list(self._model.parameters())
        # Fused: no temporaries as large as all gradients.
        optimizer = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[work.training or "adamw"](
            parameters, lr=1e-4, fused=True
        )
        self._optimizer = optimizer
        self._train(replace(work, tokens=2, batch=1))
        optimizer.zero_grad(set_to_none=True)
        return optimizer

    def _step_done(self, module: Any, _: Any, output: Any) -> None:
        """Count a forward step; in training, the arrival of its gradient is another."""
        self._passed += 1
        if self._optimizer is not None and module is not self._model.lm_head:
            output.register_hook(self._gradient_came)

    def _gradient_came(self, _: Any) -> None:
        self._passed += 1

    def run(self, work: ModelWork, *, followed: bool = True) -> tuple[Reached, ...]:
        """Run one piece of work; out of memory is a result. See `Runs`."""
        import torch

        self._passed = 0
        self._checkpointed.mode = work.checkpointing
        self._model.set_attn_implementation(work.attention)
        follower = follow_allocations(self._budget) if followed and not self._cuda else None
        if self._cuda and followed:
            # Each peak of the reserved memory starts from the weights alone.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._synchronize()
        began = time.perf_counter()
        kv, over, held, refused = 0, None, {}, None
        try:
            kv = self._do(work, follower)
        except (OverBudgetError, torch.OutOfMemoryError) as error:
            over = refusal(str(error))
            # A live error keeps everything alive that its frames hold.
            held = self._held(follower)
            refused = refused_reserve(str(error)) if self._cuda else None
            if self._snapshot is not None:
                self._snapshot.parent.mkdir(parents=True, exist_ok=True)
                dump: Any = torch.cuda.memory._dump_snapshot  # noqa: SLF001 - documented so
                dump(str(self._snapshot))
        self._synchronize()
        seconds = time.perf_counter() - began
        done = 1.0 if over is None else self._passed / self._all_steps(work)
        peak, (reserved, free) = self._peak(follower), self._device()
        reserve = refused if reserved is None or refused is not None else reserved - peak
        reached = Reached(peak, kv, seconds, done, over, held, reserved, free, reserve)
        self._clean()
        return (reached,)

    def _all_steps(self, work: ModelWork) -> int:
        if work.training is not None:
            # Forward and backward of every block, the logits, and the optimizer's step.
            return 2 * len(self._steps)
        chunk = min(work.chunk or work.tokens, work.tokens)
        return -(-work.tokens // chunk) * len(self._steps)

    def _do(self, work: ModelWork, follower: Any) -> int:
        with follower or contextlib.nullcontext():
            if follower is not None:
                follower.add(*self._model.parameters(), *self._model.buffers(), *self._state())
            if work.training is not None:
                self._train(work)
                return 0
            return self._read(work)

    def _train(self, work: ModelWork) -> None:
        """Forward, loss over all positions, backward, and the optimizer's step."""
        import torch

        size = (work.batch, work.tokens)
        prompt = torch.zeros(size, dtype=torch.long, device=self.device)
        loss = self._model(input_ids=prompt, labels=prompt, use_cache=False).loss
        loss.backward()
        assert self._optimizer is not None
        self._optimizer.step()

    def _read(self, work: ModelWork) -> int:
        """Prefill chunk by chunk; returns the bytes of the cache's tensors at the end."""
        import torch

        prompt = torch.zeros(work.batch, work.tokens, dtype=torch.long, device=self.device)
        self._cache = new_cache(self._model.config, work)
        keep = 0 if work.all_logits else 1
        chunk = min(work.chunk or work.tokens, work.tokens)
        with torch.no_grad():
            for start in range(0, work.tokens, chunk):
                part = prompt[:, start : start + chunk]
                self._model(part, past_key_values=self._cache, logits_to_keep=keep)
        return cache_bytes(self._cache)

    def _state(self) -> list[Any]:
        states = self._optimizer.state.values() if self._optimizer is not None else ()
        return [value for state in states for value in state.values() if hasattr(value, "untyped_storage")]

    def _held(self, follower: Any) -> dict[str, int]:
        """Current bytes by what holds them."""
        import torch

        live = torch.cuda.memory_allocated() if follower is None else follower.live
        parameters = list(self._model.parameters())
        held = {
            "weights": _bytes(parameters),
            "kv_cache": cache_bytes(self._cache) if self._cache is not None else 0,
            "gradients": _bytes([one.grad for one in parameters if one.grad is not None]),
            "optimizer": _bytes(self._state()),
        }
        return held | {"activations and logits": max(0, int(live) - sum(held.values()))}

    def _synchronize(self) -> None:
        import torch

        if self._cuda:
            torch.cuda.synchronize()

    def _peak(self, follower: Any) -> int:
        import torch

        if self._cuda:
            return int(torch.cuda.max_memory_allocated())
        return int(follower.peak) if follower is not None else 0

    def _device(self) -> tuple[int | None, int | None]:
        import torch

        if not self._cuda:
            return None, None
        return int(torch.cuda.max_memory_reserved()), int(torch.cuda.mem_get_info()[0])

    def _clean(self) -> None:
        """Free what a run left, so that it does not count for the next one."""
        self._cache = None
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
        gc.collect()


def _bytes(tensors: list[Any]) -> int:
    """Bytes of storages, each counted once; for a sharded tensor, this rank's shard."""
    storages = {}
    for tensor in tensors:
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
        storages[storage._cdata] = storage.nbytes()  # noqa: SLF001 - the only identity that two views share
    return sum(storages.values())
