"""Peak memory of one training step: forward, loss in fp32, backward, optimizer. No torch, no device.

Autograd saves the tensors of a block that its operators need again, each once:

* each of two norms: its input in fp32, the normalized input, and its output;
* attention: the rotated q and k, v, the result, and a logarithm in fp32 for every head and position (`sdpa`); or the
  repeated k and v and the scores after their softmax (`eager`);
* the MLP: gate, activated gate, up projection, their product (without a gate: up projection, activated).
"""

from dataclasses import dataclass

from runner.sizing.models import ModelShape
from runner.sizing.work import (
    FP32_BYTES,
    ModelWork,
    block_weight_bytes,
    head_weight_bytes,
    kv_heads_on_one_gpu,
    weight_bytes,
)


@dataclass(frozen=True)
class TrainingStep:
    """Bytes beyond weights and optimizer state, at the two points that can be a step's peak.

    Attributes:
        moment: name of the peak after the loss.
        activations, gradients: bytes at the peak after the loss.
        loss: bytes in the backward of the loss: all saved tensors, the log-softmax, and two gradients of its size.
    """

    moment: str
    activations: int
    gradients: int
    loss: int


@dataclass(frozen=True)
class _Block:
    """Bytes of one block: kept from forward to backward, saved by its operators, and used by its wide parts."""

    kept: int
    saved: int
    residual: int
    ff: int
    attention: int
    scores: int


def training_step(shape: ModelShape, work: ModelWork) -> TrainingStep:
    """The peaks of one training step on one GPU.

    A block's backward peaks in its MLP or, with eager attention, at its scores. From the last block to the first, saved
    tensors are freed and gradients of the weights replace them, so the peak is at one of the two ends, or at the end of
    the backward, when all gradients exist.

    Raises:
        ValueError: the work is not a training step.
    """
    if work.training is None:
        raise ValueError("a prefill is not a training step")
    block, positions = _block(shape, work), work.tokens * work.batch
    always = 2 * work.tokens * shape.head_dim * work.weight_bytes
    if work.checkpointing != "none" and work.attention == "eager":
        # A checkpointed block keeps its arguments, the mask among them.
        always += work.tokens * work.tokens * work.batch * work.weight_bytes
    head = head_weight_bytes(shape, work) + shape.hidden * work.weight_bytes
    last_norm = positions * shape.hidden * (FP32_BYTES + 2 * work.weight_bytes)
    loss = shape.layers * block.kept + always + last_norm + 3 * positions * shape.vocab * FP32_BYTES

    one = block_weight_bytes(shape, work)
    mlp_weights = (3 if shape.gated_mlp else 2) * shape.hidden * shape.ff * work.weight_bytes
    mlp_weights = -(-mlp_weights // work.tensor_parallel)
    down = -(-shape.hidden * shape.ff // work.tensor_parallel) * work.weight_bytes
    in_mlp = block.saved + (2 if shape.gated_mlp else 1) * block.ff + block.residual
    norm = positions * shape.hidden * (FP32_BYTES + 2 * work.weight_bytes)
    in_attention = (
        block.saved
        - (4 if shape.gated_mlp else 2) * block.ff
        - norm
        + block.residual
        + max(block.attention, block.scores)
    )
    moments = {"the end of the backward": (block.residual + always, weight_bytes(shape, work))}
    for place, others_done in (("last", 0), ("first", shape.layers - 1)):
        kept = (shape.layers - 1 - others_done) * block.kept + always
        gradients = head + others_done * one
        name = f"the backward of the {place} block's"
        moments[f"{name} MLP"] = kept + in_mlp, gradients + down
        moments[f"{name} attention"] = kept + in_attention, gradients + mlp_weights
    fullest = max(moments, key=lambda name: sum(moments[name]))
    return TrainingStep(fullest, *moments[fullest], loss)


def _block(shape: ModelShape, work: ModelWork) -> _Block:
    size, positions = work.weight_bytes, work.tokens * work.batch
    residual = positions * shape.hidden * size
    ff = positions * -(-shape.ff // work.tensor_parallel) * size
    kv_heads, heads = kv_heads_on_one_gpu(shape, work), shape.heads // work.tensor_parallel
    query, key = (positions * count * shape.head_dim * size for count in (heads, kv_heads))
    norms = 2 * positions * shape.hidden * (FP32_BYTES + 2 * size)
    logarithms = positions * heads * FP32_BYTES
    # Scores of all heads: heads × tokens × tokens, kept in fp32 and, if that differs, in the weights' type.
    one = positions * work.tokens * heads
    half = 0 if size == FP32_BYTES else size
    scores = one * (FP32_BYTES + half)
    products = (2 if shape.gated_mlp else 1) * ff
    kept = residual
    if work.attention == "eager":
        repeated = query if 1 < kv_heads < heads else key
        attention, saved = 3 * query + 2 * repeated, 2 * query + 2 * repeated + scores
    else:
        attention, saved = 2 * query + 2 * key, 2 * query + 2 * key + logarithms
    saved += norms + 2 * products
    if work.checkpointing == "selective":
        kept += query + 2 * key + 2 * residual + products
        kept += query + logarithms if work.attention == "sdpa" else 0
    elif work.checkpointing == "none":
        kept = saved
    # Two gradients in fp32, after the half-precision scores are freed.
    transient = one * (2 * FP32_BYTES - half) if work.attention == "eager" else 0
    return _Block(kept, saved, residual, ff, attention, transient)
