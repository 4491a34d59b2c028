"""Peak memory of an eager model without gradients during a prefill. No torch, no device."""

from runner.sizing.models import ModelShape
from runner.sizing.work import FP32_BYTES, ModelWork, head_split, kv_heads_on_one_gpu

# Of one score of eager attention: see `activations`.
SCORE_BYTES = 8


def activations(shape: ModelShape, work: ModelWork) -> int:
    """Peak bytes within one eager block without gradients."""
    return max(block_moments(shape, work).values())


def block_moments(shape: ModelShape, work: ModelWork) -> dict[str, int]:
    """Bytes at every point within an eager block without gradients that can be its peak.

    Alive throughout are the embedded prompt, the block's input, the rotary cosines and sines and, if the prompt is
    processed in chunks, a mask of one byte for each of chunk × tokens. Each point adds to these:

    * the MLP: residual, norm, activated gate, up projection, their product (without a gate: projection, activated);
    * a norm: residual, and copies of its input and output in fp32;
    * the rotation: norm, q, k, v, and three copies of q (or, after q, of k) while it is rotated. A growing cache does
      not have the last layer's keys and values yet;
    * the attention kernel: norm, q and its result. A chunk also takes a mask in the weights' type for every sequence,
      and grouped keys and values repeated for every query head over the whole cache (a single one needs no copy). A
      cache of another type is read through a copy of one layer;
    * with eager attention: norm, q, the repeated keys and values, and 8 bytes for each of heads × chunk × tokens
      scores (fp32: before and after the softmax; half precision: before, in fp32, and after).
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
    norm = residual + residual * 2 * FP32_BYTES // work.weight_bytes
    not_cached_yet = 2 * key * work.kv_bytes // work.weight_bytes if whole else 0
    rotation = residual + max(4 * query + 2 * key, 2 * query + 5 * key) - not_cached_yet
    cached = key if whole else work.tokens * work.batch * kv_heads * shape.head_dim
    scores = chunk * work.tokens * work.batch
    kernel = residual + 2 * query + (0 if work.kv_bytes == work.weight_bytes else 2 * cached)
    if 1 < kv_heads < heads and (work.attention == "eager" or not whole):
        kernel += 2 * heads * shape.head_dim * work.tokens * work.batch
    if work.attention == "eager":
        kernel += heads * scores * SCORE_BYTES // work.weight_bytes - query
        mask = scores * work.weight_bytes
    else:
        kernel += 0 if whole else scores
        mask = 0 if whole else chunk * work.tokens
    always = 2 * residual + 2 * chunk * shape.head_dim
    moments = {
        "a block's MLP": mlp,
        "a block's norm": norm,
        "the rotation of queries and keys": rotation,
        "a block's attention": kernel,
    }
    return {name: (always + size) * work.weight_bytes + mask for name, size in moments.items()}


def logits_bytes(shape: ModelShape, work: ModelWork) -> int:
    """Bytes of the logits and the last hidden states; only one chunk is alive at a time.

    If the output matrix is split, a GPU holds its own columns, the gathered columns of all GPUs, and a reordered copy.
    """
    positions = min(work.chunk or work.tokens, work.tokens) * work.batch
    rows = positions if work.all_logits else work.batch
    split = head_split(shape, work)
    columns = shape.vocab if split == 1 else shape.vocab // split + 2 * shape.vocab
    return (positions * shape.hidden + rows * columns) * work.weight_bytes
