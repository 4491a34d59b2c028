"""The work given to a model, and the memory formulas that inference and training share.

KV bytes = 2 × layers × kv_heads × head_dim × tokens × batch × bytes per element.
"""

from dataclasses import dataclass
from typing import Literal

from runner.sizing.models import ModelShape

Attention = Literal["sdpa", "eager"]
Checkpointing = Literal["none", "full", "selective"]
Optimizer = Literal["adamw", "sgd"]

FP32_BYTES = 4
# Optimizer state in multiples of the weights: AdamW keeps two averages; SGD without momentum keeps none.
_STATES: dict[Optimizer, int] = {"adamw": 2, "sgd": 0}


@dataclass(frozen=True)
class ModelWork:
    """One prefill, or one training step, of `tokens` tokens in each of `batch` sequences.

    Attributes:
        weight_bytes, kv_bytes: bytes per element of weights (and activations), and of the KV cache. A cache of another
            type is read through a copy of one layer in the weights' type.
        all_logits: the logits of every position are kept, not only of the last. Training needs them all.
        chunk: positions per forward pass; None for all of them.
        tensor_parallel: GPUs that share weights, heads and MLP.
        attention: `sdpa` never holds the scores; `eager` holds heads × tokens × tokens of them.
        checkpointing: what of a block is kept for the backward: all saved tensors (`none`), only its input (`full`), or
            its input and the results of GEMMs and attention (`selective`). A prefill saves no tensors, so it does not
            gain.
        training: the optimizer of a training step (forward, backward, optimizer step, with its state allocated); None
            for a prefill. Gradients and state have the weights' type, as in torch, and gradients are freed between
            steps.
    """

    tokens: int
    batch: int = 1
    weight_bytes: int = 2
    kv_bytes: int = 2
    all_logits: bool = True
    chunk: int | None = None
    tensor_parallel: int = 1
    attention: Attention = "sdpa"
    checkpointing: Checkpointing = "none"
    training: Optimizer | None = None


@dataclass(frozen=True)
class Footprint:
    """Bytes on one GPU by what holds them.

    The peak is at one of two points: the peak within a block, or the logits.

    Attributes:
        weights, kv_cache, optimizer: held throughout.
        activations, gradients: at the peak within a block; in training, of a block's backward.
        logits: at the logits, including the last hidden states and, in training, all tensors saved for the
            backward.
        moment: name of the overall peak.
    """

    weights: int
    kv_cache: int
    activations: int
    logits: int
    gradients: int = 0
    optimizer: int = 0
    moment: str = ""

    @property
    def total(self) -> int:
        """The peak in bytes."""
        held = self.weights + self.kv_cache + self.optimizer
        return held + max(self.activations + self.gradients, self.logits)


def kv_heads_on_one_gpu(shape: ModelShape, work: ModelWork) -> int:
    """Key/value heads that one GPU holds. Above kv_heads, tensor parallelism replicates them instead of splitting."""
    return -(-shape.kv_heads // min(work.tensor_parallel, shape.kv_heads))


def kv_cache_bytes(shape: ModelShape, work: ModelWork) -> int:
    """Bytes of the KV cache on one GPU; a training step has none."""
    if work.training is not None:
        return 0
    return shape.cached_values(work.tokens, work.batch, kv_heads_on_one_gpu(shape, work)) * work.kv_bytes


def block_weight_bytes(shape: ModelShape, work: ModelWork) -> int:
    """Bytes of one block's weights on one GPU: tensor parallelism splits the matrices, not the two norms."""
    norms = 2 * shape.hidden
    return (-(-(shape.block_parameters - norms) // work.tensor_parallel) + norms) * work.weight_bytes


def head_weight_bytes(shape: ModelShape, work: ModelWork) -> int:
    """Bytes of the output matrix on one GPU: split by vocabulary if that divides and it is not also the embedding."""
    return shape.hidden * shape.vocab // head_split(shape, work) * work.weight_bytes


def head_split(shape: ModelShape, work: ModelWork) -> int:
    """Number of GPUs that the output matrix is split over."""
    whole = shape.tied_embeddings or shape.vocab % work.tensor_parallel
    return 1 if whole else work.tensor_parallel


def weight_bytes(shape: ModelShape, work: ModelWork) -> int:
    """Bytes of the weights on one GPU: the embedding and the norms are not split by tensor parallelism."""
    blocks = shape.layers * block_weight_bytes(shape, work)
    embedding = shape.vocab * shape.hidden * work.weight_bytes
    head = 0 if shape.tied_embeddings else head_weight_bytes(shape, work)
    return blocks + embedding + head + shape.hidden * work.weight_bytes


def optimizer_bytes(shape: ModelShape, work: ModelWork) -> int:
    """Bytes of the optimizer's state on one GPU."""
    if work.training is None:
        return 0
    return _STATES[work.training] * weight_bytes(shape, work)
