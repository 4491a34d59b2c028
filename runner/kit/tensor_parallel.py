"""Tensor parallelism: one transformer over several ranks, each with only its shards. Uses DTensor.

The plan is the model's own (transformers' `base_model_tp_plan`): q, k, v, gate and up are split by output columns, o
and down by input rows, so that a block needs two all-reduces and every rank computes whole heads. The KV cache of a
rank holds that rank's heads. Embedding and norms are replicated; the output matrix is split by vocabulary unless it is
also the embedding.
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from runner.base.errors import InputError
from runner.sizing.models import ModelShape

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle


def degrees(shape: ModelShape, most: int) -> list[int]:
    """The numbers of ranks, up to `most`, that divide the heads, the key/value heads and the MLP of a shape."""
    return [degree for degree in range(1, most + 1) if not _undivided(shape, degree)]


def check_degree(shape: ModelShape, degree: int) -> None:
    """Refuse a number of ranks that cannot split this shape evenly.

    Raises:
        InputError: it is below one, or does not divide the heads, the key/value heads or the MLP; the message names
            them and the valid numbers.
    """
    if degree < 1:
        raise InputError(f"the number of ranks must be 1 or more, not {degree}")
    undivided = _undivided(shape, degree)
    if undivided:
        possible = ", ".join(map(str, degrees(shape, shape.kv_heads)))
        raise InputError(
            f"{shape.name} cannot be split over {degree} ranks: {degree} does not divide its"
            f" {' or its '.join(undivided)}; choose one of {possible}"
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
        ranks: number of ranks.
        timeout_s: timeout of a collective in seconds.
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
    """Shard a transformers causal model in place: afterwards a rank holds its shards and the replicated parameters.

    Every rank must have the same weights, or none: on the meta device nothing is allocated, and the shards are filled
    afterwards (`copy_shard`).

    Args:
        model: with a `config.base_model_tp_plan` made of `colwise` and `rowwise`; its heads must divide by the ranks.
        mesh: one-dimensional.

    Raises:
        InputError: the plan has an unsupported style.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    # Each rank takes its shard of its own weights; no weights are sent between ranks.
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
                f"{type(model).__name__}: {name} has the unsupported style {way!r}; supported are colwise, rowwise"
            )
        # An MLP of two matrices has no gate.
        if name in present:
            plan[f"{prefix}.{name}"] = ColwiseParallel() if way == "colwise" else RowwiseParallel()
    vocab, _ = model.lm_head.weight.shape
    if model.lm_head.weight is not model.get_input_embeddings().weight and vocab % ranks == 0:
        plan["lm_head"] = ColwiseParallel(output_layouts=Replicate())
    return plan


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def copy_shard(parameter: "torch.Tensor", whole: "torch.Tensor") -> None:
    """Fill a parameter from the full tensor: all of it if it is replicated, else this rank's shard."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        part = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(part.to_local())
    else:
        parameter.copy_(whole)
