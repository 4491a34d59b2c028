"""Peak memory of a process's tensors on any device, and an enforced limit for devices that have none of their own.

Every storage that an operator returns, also as a view, is tracked until it is freed. A tensor that existed before must
be added. Memory that an operator allocates and frees internally (a kernel's workspace) is not seen; on a GPU the peak
of the caching allocator is used instead.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class OverBudgetError(Exception):
    """Live tensors would exceed the limit; the message gives both in bytes, and the operator that allocated."""


def _storages(values: Iterable[Any]) -> Iterator[Any]:
    """The storages of all tensors among these values; for a wrapper tensor, those of its inner tensors."""
    import torch

    for value in values:
        if hasattr(value, "__tensor_flatten__"):
            yield from _storages(getattr(value, name) for name in value.__tensor_flatten__()[0])
        elif isinstance(value, torch.Tensor):
            yield value.untyped_storage()


def follow_allocations(limit: int | None = None) -> Any:
    """A context manager that tracks allocations: bytes `live` and `peak`; above `limit` it raises OverBudgetError.

    `add(*tensors)` counts tensors that already exist, for example weights.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves this base untyped
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call] # as above
            self.live, self.peak = 0, 0
            self._known: dict[int, weakref.ref[Any]] = {}

        def add(self, *tensors: "torch.Tensor") -> None:
            for storage in _storages(tensors):
                self._count(storage, "existing tensors")

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(hasattr(kind, "__tensor_flatten__") for kind in types):
                # A wrapper tensor (such as a DTensor shard): its own dispatch calls this again with operators on its
                # inner tensors.
                return NotImplemented
            result = func(*args, **(kwargs or {}))
            for storage in _storages(tree_leaves(result)):
                self._count(storage, str(func))
            return result

        def _count(self, storage: Any, asker: str) -> None:
            key = storage._cdata  # noqa: SLF001 - the only identity that two views of a storage share
            if key in self._known or storage.device.type == "meta":
                return
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            self._known[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            if limit is not None and self.live > limit:
                raise OverBudgetError(
                    f"{asker} allocated {size} bytes: {self.live} bytes live, limit {limit}"
                )

        def _forget(self, key: int, size: int) -> None:
            if self._known.pop(key, None) is not None:
                self.live -= size

    return Follower()
