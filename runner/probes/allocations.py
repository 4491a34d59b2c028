"""The true peak of a process's own tensors, on any device, and a limit that is enforced where the device has none.

Every storage that an operator returns, be it as a view, is followed until it is freed; a tensor from before counts once
it is added. What an operator allocates and frees inside itself (a kernel's scratch) is not seen; on a GPU the caching
allocator's own peak is used instead.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class OverBudgetError(Exception):
    """The tensors alive would take more than the limit; the message has both in bytes, and who asked for more."""


def follow(limit: int | None = None) -> Any:
    """A context manager that follows allocations; see `_follower` for its attributes."""
    return _follower()(limit)


def _storages(values: Iterable[Any]) -> Iterator[Any]:
    """The storages beneath all tensors among these values; of a tensor made of others, theirs."""
    import torch

    for value in values:
        if hasattr(value, "__tensor_flatten__"):
            yield from _storages(getattr(value, name) for name in value.__tensor_flatten__()[0])
        elif isinstance(value, torch.Tensor):
            yield value.untyped_storage()


def _follower() -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves this base untyped
        """Follows storages. `live` and `peak` are bytes; beyond `limit` bytes it raises OverBudgetError."""

        def __init__(self, limit: int | None) -> None:
            super().__init__()  # type: ignore[no-untyped-call] # as above
            self.limit, self.live, self.peak = limit, 0, 0
            self._known: dict[int, weakref.ref[Any]] = {}

        def add(self, *tensors: "torch.Tensor") -> None:
            """Count tensors that were there before, weights say."""
            for storage in _storages(tensors):
                self._count(storage, "what was there before")

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(hasattr(kind, "__tensor_flatten__") for kind in types):
                # A tensor made of others (a shard of one that is cut over ranks): its own dispatch comes back with
                # the operators on those.
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
            if self.limit is not None and self.live > self.limit:
                raise OverBudgetError(
                    f"{asker} took {size} bytes: {self.live} bytes alive, limit {self.limit}"
                )

        def _forget(self, key: int, size: int) -> None:
            if self._known.pop(key, None) is not None:
                self.live -= size

    return Follower
