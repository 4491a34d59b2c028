"""How much memory a model takes, by arithmetic alone: no torch, no device.

Formulas: KV bytes = 2 × layers × kv_heads × head_dim × tokens × batch × bytes per element; logits of a prefill =
tokens × vocabulary × bytes; activations are what an eager block holds at its fullest, derived at `activations`.
"""

import sys
from bisect import bisect_right
from dataclasses import dataclass, replace

from runner.hardware.boards import Board
from runner.models import ModelShape

# What the allocator's rounding and the CUDA context and communicators take on a GPU; a rule of thumb, not measured.
GPU_OVERHEAD_BYTES = 2 * 2**30
_FP32_BYTES = 4


@dataclass(frozen=True)
class Work:
    """One prefill of `tokens` tokens in each of `batch` sequences.

    Attributes:
        weight_bytes, kv_bytes: bytes per element of weights (and activations), and of the KV cache.
        all_logits: the logits of every position are kept, not of the last alone.
        chunk: positions that go through the model at once; None for all of them.
        tensor_parallel: GPUs that share weights, heads and MLP.
    """

    tokens: int
    batch: int = 1
    weight_bytes: int = 2
    kv_bytes: int = 2
    all_logits: bool = True
    chunk: int | None = None
    tensor_parallel: int = 1


@dataclass(frozen=True)
class Footprint:
    """Bytes on one GPU by what holds them. Activations and logits are not alive together: the larger one counts."""

    weights: int
    kv_cache: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The peak in bytes."""
        return self.weights + self.kv_cache + max(self.activations, self.logits)


def kv_heads_on_one_gpu(shape: ModelShape, work: Work) -> int:
    """Key/value heads that one GPU holds. Above kv_heads, tensor parallelism replicates them instead of splitting."""
    return -(-shape.kv_heads // min(work.tensor_parallel, shape.kv_heads))


def kv_cache_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the KV cache on one GPU."""
    heads = kv_heads_on_one_gpu(shape, work)
    return 2 * shape.layers * heads * shape.head_dim * work.tokens * work.batch * work.kv_bytes


def weight_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the weights on one GPU: blocks are split by tensor parallelism, embeddings and norms are not."""
    blocks = shape.layers * shape.block_parameters
    rest = shape.parameters - blocks
    return (-(-blocks // work.tensor_parallel) + rest) * work.weight_bytes


def activations(shape: ModelShape, work: Work) -> int:
    """Bytes of the fullest moment within an eager block without gradients.

    Alive all along are the embedded prompt, the block's input, the rotary cosines and sines and, where the prompt goes
    through in chunks, a mask of one byte for each of chunk × tokens. On top of them comes the fullest of four moments:

    * the MLP: residual, norm, activated gate, up projection, their product (without a gate: projection, activated);
    * a norm: residual, and its input and output once more, computed in fp32;
    * the rotation: norm, q, k, v, and three copies of q (or, q done, of k) while it is turned. A cache that grows does
      not have the last layer's keys and values yet;
    * the attention kernel: norm, q and its result. A chunk also takes a mask in the weights' type for every sequence,
      and grouped keys and values repeated for every query head over the whole cache (a single one needs no copy).
    """
    chunk = min(work.chunk or work.tokens, work.tokens)
    whole = chunk == work.tokens
    positions = chunk * work.batch
    residual = positions * shape.hidden
    ff = positions * -(-shape.ff // work.tensor_parallel)
    kv_heads = kv_heads_on_one_gpu(shape, work)
    heads = shape.heads // work.tensor_parallel
    query, key = (positions * count * shape.head_dim for count in (heads, kv_heads))
    mlp = 2 * residual + (3 if shape.gated_mlp else 2) * ff
    norm = residual + residual * 2 * _FP32_BYTES // work.weight_bytes
    rotation = residual + max(4 * query + 2 * key, 2 * query + 5 * key) - (2 * key if whole else 0)
    kernel = residual + 2 * query
    if not whole:
        kernel += chunk * work.tokens * work.batch
        if 1 < kv_heads < heads:
            kernel += 2 * heads * shape.head_dim * work.tokens * work.batch
    always = 2 * residual + 2 * chunk * shape.head_dim
    mask = 0 if whole else chunk * work.tokens
    return (always + max(mlp, norm, rotation, kernel)) * work.weight_bytes + mask


def logits_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the logits with the last hidden states beneath them; of chunks, one is alive at a time."""
    positions = min(work.chunk or work.tokens, work.tokens) * work.batch
    rows = positions if work.all_logits else work.batch
    return (positions * shape.hidden + rows * shape.vocab) * work.weight_bytes


def footprint(shape: ModelShape, work: Work) -> Footprint:
    """What one GPU holds at the peak of this prefill."""
    return Footprint(
        weights=weight_bytes(shape, work),
        kv_cache=kv_cache_bytes(shape, work),
        activations=activations(shape, work),
        logits=logits_bytes(shape, work),
    )


def largest_batch(shape: ModelShape, work: Work, budget: int) -> int:
    """Sequences at once whose prefill fits into `budget` bytes; 0 if not even one does."""

    def total(batch: int) -> int:
        return footprint(shape, replace(work, batch=batch)).total

    # No more fit than their KV caches alone would.
    most = min(sys.maxsize - 1, max(0, budget) // kv_cache_bytes(shape, replace(work, batch=1)))
    return bisect_right(range(1, most + 1), budget, key=total)


def board_budget(board: Board) -> int:
    """Bytes that a model may take on a board: what torch can see of it, less the overhead."""
    usable = board.memory_usable_bytes or int(board.memory_label_gb * 1e9)
    return usable - GPU_OVERHEAD_BYTES
