"""A GPU that computes nothing: tensors on the meta device, with the memory of a modelled caching allocator."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner.kit.long_context import bench
from runner.kit.transformer import build_model
from tests.caching_allocator import CachingAllocator, RefusedError

GIB = 2**30
# cuBLAS keeps one on Hopper from the first product on, which the rotary embedding computes before any block.
_WORKSPACE = 32 * 2**20


class MetaGpu(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves this base untyped
    """Tracks every storage of the meta device while it is active."""

    def __init__(self, memory: int, *, expandable: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # as above
        self.memory, self.expandable = memory, expandable
        self.allocator = CachingAllocator(expandable=expandable)
        self.events: list[str] = []
        self._known: dict[int, weakref.ref[Any]] = {}
        self._paused = self._answer = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return self._answer
        # Two questions of transformers about values: is this the prompt's start, and is it a single sequence.
        self._answer = func is not torch.ops.aten.eq.Scalar
        result = func(*args, **(kwargs or {}))
        if not self._paused:
            for value in tree_leaves(result):
                if isinstance(value, torch.Tensor) and value.device.type == "meta":
                    self.hold(value)
        return result

    def hold(self, tensor: torch.Tensor) -> None:
        """Give a storage memory until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or not storage.nbytes():
            return
        try:
            number = self.allocator.allocate(storage.nbytes())
        except RefusedError:
            raise torch.OutOfMemoryError(self._message(storage.nbytes())) from None

        def freed(_: object) -> None:
            del self._known[key]
            self.allocator.free(number)

        self._known[key] = weakref.ref(storage, freed)

    def built(self, *arguments: Any, mesh: object = None) -> Any:
        """`build_model` with its weights laid out once, as on a GPU."""
        shape, kind, _ = arguments
        self._paused = True
        model = build_model(shape, kind, "meta")
        self._paused = False
        for tensor in (*model.parameters(), *model.buffers()):
            self.hold(tensor)
        self.allocator.allocate(_WORKSPACE)
        return model

    def empty_cache(self) -> None:
        self.events.append("empty_cache")
        self.allocator.release()

    def limit(self, share: float) -> None:
        self.allocator.limit = int(share * self.memory)

    def _message(self, asked: int) -> str:
        """As torch 2.11 says it."""
        held, limit = self.allocator, self.allocator.limit or self.memory
        return (
            f"CUDA out of memory. Tried to allocate {asked / GIB:.2f} GiB. GPU 0 has a total capacity of"
            f" {self.memory / GIB:.2f} GiB of which {(self.memory - held.reserved) / GIB:.2f} GiB is free. Process 596"
            " has 38.54 GiB memory in use. Including non-PyTorch memory, this process has 26.79 GiB memory in use."
            f" {limit / GIB:.2f} GiB allowed; Of the allocated memory {held.allocated / GIB:.2f} GiB is allocated by"
            f" PyTorch, and {(held.reserved - held.allocated) / GIB:.2f} GiB is reserved by PyTorch but unallocated."
        )


class _Attention(torch.autograd.Function):
    """The tensors of a fused attention kernel: its result, laid out by position, and a logarithm for every row."""

    @staticmethod
    def forward(context: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, heads, positions, size = query.shape
        result = query.new_empty(batch, positions, heads, size).transpose(1, 2)
        rows = query.new_empty(batch, heads, positions, dtype=torch.float32)
        context.save_for_backward(query, key, value, result, rows)
        return result

    @staticmethod
    def backward(context: Any, *_: Any) -> Any:
        query, key, value, *_ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    attend: Any = _Attention.apply
    return attend(query, key, value)


class _AdamW(torch.optim.Optimizer):
    """The state of AdamW: torch's fused kernel refuses the meta device."""

    def __init__(self, parameters: list[torch.Tensor], **_: object) -> None:
        super().__init__(parameters, {})

    def step(self, closure: object = None) -> None:  # type: ignore[override] # the bench passes no closure
        for parameter in self.param_groups[0]["params"]:
            if parameter not in self.state:
                averages = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = averages | {"step": parameter.new_zeros(())}


@contextlib.contextmanager
def meta_gpu(monkeypatch: pytest.MonkeyPatch, memory: int, *, expandable: bool) -> Iterator[MetaGpu]:
    """Let torch and the bench use a GPU of `memory` bytes that computes nothing."""
    gpu = MetaGpu(memory, expandable=expandable)
    readings: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "synchronize": lambda: gpu.events.append("synchronize"),
        "empty_cache": gpu.empty_cache,
        "reset_peak_memory_stats": gpu.allocator.reset_peaks,
        "get_device_properties": lambda: SimpleNamespace(total_memory=memory),
        "set_per_process_memory_fraction": gpu.limit,
        "memory_allocated": lambda: gpu.allocator.allocated,
        "max_memory_allocated": lambda: gpu.allocator.peak,
        "memory_reserved": lambda: gpu.allocator.reserved,
        "max_memory_reserved": lambda: gpu.allocator.reserved_peak,
        "mem_get_info": lambda: (memory - gpu.allocator.reserved, memory),
    }
    for name, reading in readings.items():
        monkeypatch.setattr(torch.cuda, name, reading)
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "", "expandable_segments": expandable}
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: {"allocator_settings": settings})
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", _attention)
    monkeypatch.setattr(torch.optim, "AdamW", _AdamW)
    monkeypatch.setattr(bench, "GPU", "meta")
    monkeypatch.setattr(bench, "build_model", gpu.built)
    with gpu:
        yield gpu
