"""What is asked of a model, and the parts of its memory that inference and training share.

KV bytes = 2 × layers × kv_heads × head_dim × tokens × batch × bytes per element.
"""

from dataclasses import dataclass
from typing import Literal

from runner.models import ModelShape

Attention = Literal["sdpa", "eager"]
Checkpointing = Literal["none", "full", "selective"]
Optimizer = Literal["adamw", "sgd"]

FP32_BYTES = 4
# Tensors as large as the weights that an optimizer keeps: AdamW two averages; SGD without momentum none.
_STATES: dict[Optimizer, int] = {"adamw": 2, "sgd": 0}


@dataclass(frozen=True)
class Training:
    """That the work is a training step: forward, backward, and the optimizer's step with its state in place.

    Gradients and optimizer state have the weights' type, as torch makes them; gradients are freed between steps.

    Attributes:
        checkpointing: what of a block is kept for the backward: all that it saves, its input alone (`full`), or its
            input and the results of matrix products and attention (`selective`).
        optimizer: whose state is held.
    """

    checkpointing: Checkpointing = "none"
    optimizer: Optimizer = "adamw"


@dataclass(frozen=True)
class Work:
    """One prefill, or one training step, of `tokens` tokens in each of `batch` sequences.

    Attributes:
        weight_bytes, kv_bytes: bytes per element of weights (and activations), and of the KV cache. A cache of another
            type is read through a copy of one layer in the weights' type.
        all_logits: the logits of every position are kept, not of the last alone. Training needs them all.
        chunk: positions that go through the model at once; None for all of them.
        tensor_parallel: GPUs that share weights, heads and MLP.
        attention: `sdpa` never holds the scores; `eager` holds heads × tokens × tokens of them.
        training: None for a prefill.
    """

    tokens: int
    batch: int = 1
    weight_bytes: int = 2
    kv_bytes: int = 2
    all_logits: bool = True
    chunk: int | None = None
    tensor_parallel: int = 1
    attention: Attention = "sdpa"
    training: Training | None = None


@dataclass(frozen=True)
class Footprint:
    """Bytes on one GPU by what holds them.

    Two moments compete for the peak: the fullest one within a block, and that of the logits.

    Attributes:
        weights, kv_cache, optimizer: held all along.
        activations, gradients: at the fullest moment within a block; in training, of a block's backward.
        logits: at the moment of the logits, what lies beneath them included: the last hidden states, and in training
            all that was saved for the backward.
    """

    weights: int
    kv_cache: int
    activations: int
    logits: int
    gradients: int = 0
    optimizer: int = 0

    @property
    def total(self) -> int:
        """The peak in bytes."""
        held = self.weights + self.kv_cache + self.optimizer
        return held + max(self.activations + self.gradients, self.logits)


def kv_heads_on_one_gpu(shape: ModelShape, work: Work) -> int:
    """Key/value heads that one GPU holds. Above kv_heads, tensor parallelism replicates them instead of splitting."""
    return -(-shape.kv_heads // min(work.tensor_parallel, shape.kv_heads))


def kv_cache_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the KV cache on one GPU; a training step has none."""
    if work.training is not None:
        return 0
    heads = kv_heads_on_one_gpu(shape, work)
    return 2 * shape.layers * heads * shape.head_dim * work.tokens * work.batch * work.kv_bytes


def block_weight_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of one block's weights on one GPU."""
    return -(-shape.block_parameters // work.tensor_parallel) * work.weight_bytes


def weight_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the weights on one GPU: blocks are split by tensor parallelism, embeddings and norms are not."""
    blocks = shape.layers * shape.block_parameters
    rest = shape.parameters - blocks
    return (-(-blocks // work.tensor_parallel) + rest) * work.weight_bytes


def optimizer_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the optimizer's state on one GPU."""
    if work.training is None:
        return 0
    return _STATES[work.training.optimizer] * weight_bytes(shape, work)
