"""The memory that a model needs, by formula alone: no torch, no device.

`work` describes one prefill or one training step and holds the formulas that both share. `inference` and `training`
give the peak of an eager model. `limits` gives what fits into a budget. `remedies` ranks the changes that lower the
peak.
"""

from runner.sizing.inference import activations, logits_bytes
from runner.sizing.limits import (
    GPU_OVERHEAD_BYTES,
    MARGIN,
    board_budget,
    footprint,
    largest_batch,
    longest,
    quadratic_term,
)
from runner.sizing.remedies import NODE_GPUS, Remedy, first_remedy, remedies, together
from runner.sizing.work import (
    Attention,
    Checkpointing,
    Footprint,
    Optimizer,
    Work,
    kv_cache_bytes,
    kv_heads_on_one_gpu,
    optimizer_bytes,
    weight_bytes,
)

__all__ = [
    "GPU_OVERHEAD_BYTES",
    "MARGIN",
    "NODE_GPUS",
    "Attention",
    "Checkpointing",
    "Footprint",
    "Optimizer",
    "Remedy",
    "Work",
    "activations",
    "board_budget",
    "first_remedy",
    "footprint",
    "kv_cache_bytes",
    "kv_heads_on_one_gpu",
    "largest_batch",
    "logits_bytes",
    "longest",
    "optimizer_bytes",
    "quadratic_term",
    "remedies",
    "together",
    "weight_bytes",
]
