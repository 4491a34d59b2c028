"""What has other bits on sound hardware: the same product or sum in another order, with another batch, by atomics."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SIDE, _LONG, _TRIES = 256, 1 << 20, 10


def reordered(device: "torch.device", left: "torch.Tensor", right: "torch.Tensor") -> Mapping[str, bool]:
    """Whether the bits differ, by cause.

    Args:
        device: where it computes.
        left: of shape (m, k).
        right: of shape (k, n).
    """
    import torch

    half = left.shape[1] // 2
    values = left.reshape(-1).repeat(max(1, _LONG // left.numel()))
    found = {
        "split": not torch.equal(left @ right, left[:, :half] @ right[:half] + left[:, half:] @ right[half:]),
        "batch": not torch.equal((left @ right)[:1], left[:1] @ right),
        "reversed": not torch.equal(values.sum(), values.flip(0).sum()),
    }
    if device.type == "cuda":
        places = torch.arange(values.numel(), device=device) % _SIDE

        def added() -> "torch.Tensor":
            return torch.zeros(_SIDE, device=device).index_add_(0, places, values)

        found["atomics"] = _varies(added)
    return found


def _varies(compute: "Callable[[], torch.Tensor]") -> bool:
    import torch

    first = compute()
    return any(not torch.equal(first, compute()) for _ in range(_TRIES))
