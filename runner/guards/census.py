"""Which weights are NaN or infinite, before a checkpoint is written.

One file for a job, with torch alone. Before each save:

    if bad := weights_census(model, dist.group.WORLD):   # on every rank; without a group: this rank alone
        raise RuntimeError(f"not saved: {bad[:3]} are not finite")
    save(model)
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import ProcessGroup


def weights_census(model: "nn.Module", group: "ProcessGroup | None" = None) -> tuple[str, ...]:
    """Names of parameters and buffers with a NaN or an infinity; a buffer may have -inf, as masks do.

    Args:
        model: read on this rank, its own shards alone.
        group: its ranks get the same answer, and all must call. None: this rank.
    """
    import torch
    import torch.distributed as dist

    buffers = dict(model.named_buffers())
    bad: set[str] = set()
    for name, found in (*model.named_parameters(), *buffers.items()):
        tensor = found.detach()
        if hasattr(tensor, "to_local"):  # a shard
            tensor = tensor.to_local()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # FP8 has no extremes.
        low, high = (
            float(one) for one in torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
        )
        if math.isnan(low) or high == math.inf or (low == -math.inf and name not in buffers):
            bad.add(name)
    if group is not None:
        everyone: list[set[str]] = [set()] * dist.get_world_size(group)
        dist.all_gather_object(everyone, bad, group)
        bad = set().union(*everyone)
    return tuple(sorted(bad))
