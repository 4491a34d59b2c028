"""Tensor parallelism: one transformer over several ranks, each holding its shards alone. DTensor, no own collectives.

How it is cut is the model's own plan (transformers' `base_model_tp_plan`): q, k, v, gate and up by their output
columns, o and down by their input rows, so that a block needs two all-reduces and every rank computes whole heads.
The KV cache of a rank holds that rank's heads. Embedding and norms stand whole on each rank; the output matrix is cut
by vocabulary where it is no embedding as well.
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from runner.errors import InputError
from runner.models import ModelShape

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle


def degrees(shape: ModelShape, most: int) -> list[int]:
    """The numbers of ranks, up to `most`, that divide the heads, the key/value heads and the MLP of a shape."""
    return [degree for degree in range(1, most + 1) if not _undivided(shape, degree)]


def check_degree(shape: ModelShape, degree: int) -> None:
    """Refuse a number of ranks over which this shape cannot be cut evenly.

    Raises:
        InputError: it is below one, or does not divide the heads, the key/value heads or the MLP; the message says
            which, and what would fit.
    """
    if degree < 1:
        raise InputError(f"a model needs one rank or more, not {degree}")
    undivided = _undivided(shape, degree)
    if undivided:
        possible = ", ".join(map(str, degrees(shape, shape.kv_heads)))
        raise InputError(
            f"{shape.name} cannot be cut over {degree} ranks: {degree} does not divide its"
            f" {' nor its '.join(undivided)}; choose one of {possible}"
        )


def _undivided(shape: ModelShape, degree: int) -> list[str]:
    parts = {"attention heads": shape.heads, "key/value heads": shape.kv_heads, "MLP columns": shape.ff}
    return [f"{count} {part}" for part, count in parts.items() if count % degree]


@contextlib.contextmanager
def joined(device: str, rank: int, ranks: int, timeout_s: float) -> Iterator["DeviceMesh"]:
    """The mesh of all ranks that torchrun started; the process group ends with the block.

    Args:
        device: `cuda` (NCCL, the GPU numbered as the rank on its node) or `cpu` (gloo).
        rank: of this process; one node, so it is also the number of its GPU.
        ranks: how many there are.
        timeout_s: how long a collective waits for the others, in seconds.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    cuda = device == "cuda"
    own = torch.device("cuda", rank) if cuda else None
    if own is not None:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=timeout_s), device_id=own)
    try:
        yield init_device_mesh(device, (ranks,), mesh_dim_names=("tp",))
    finally:
        dist.destroy_process_group()


def shard(model: Any, mesh: "DeviceMesh") -> None:
    """Cut a transformers causal model in place: afterwards a rank holds its shards and what is not cut.

    Every rank must bring the same weights, or none: on the meta device nothing is held whole anywhere, and the shards
    are filled afterwards (`copy_shard`).

    Args:
        model: with a `config.base_model_tp_plan` made of `colwise` and `rowwise`; its heads must divide by the ranks.
        mesh: one-dimensional.

    Raises:
        InputError: the plan asks for a way of cutting that is not known here.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    # Each rank takes its part of what it has: no rank sends weights to the others.
    parallelize_module(model, mesh, _plan(model, mesh.size()), src_data_rank=None)


def _plan(model: Any, ranks: int) -> "dict[str, ParallelStyle]":
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    present = {_pattern(name) for name, _ in model.base_model.named_modules()}
    prefix = model.base_model_prefix
    plan: dict[str, ParallelStyle] = {}
    for name, way in model.config.base_model_tp_plan.items():
        if way not in {"colwise", "rowwise"}:
            raise InputError(
                f"{type(model).__name__}: {name} is to be cut {way!r}; known are colwise, rowwise"
            )
        # An MLP of two matrices has no gate to cut.
        if name in present:
            plan[f"{prefix}.{name}"] = ColwiseParallel() if way == "colwise" else RowwiseParallel()
    vocab, _ = model.lm_head.weight.shape
    if model.lm_head.weight is not model.get_input_embeddings().weight and vocab % ranks == 0:
        plan["lm_head"] = ColwiseParallel(output_layouts=Replicate())
    return plan


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def copy_shard(parameter: "torch.Tensor", whole: "torch.Tensor") -> None:
    """Fill a parameter from its whole self: all of it where it is not cut, this rank's shard where it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        part = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(part.to_local())
    else:
        parameter.copy_(whole)
