"""Metrics of `gpt_large_optimized`."""

from runner.vocabulary import shared
from runner.vocabulary.model import Metric

METRICS = (
    Metric(
        "tokens_per_second",
        "token/s",
        "higher",
        "Batch size ÷ time of one decoding step.",
        label="Decoding speed",
    ),
    Metric(
        "time_per_output_token",
        "s",
        "lower",
        "One decoding step of the batch; the first token is not counted.",
        label="Time per output token",
    ),
    Metric(
        "time_to_first_token",
        "s",
        "lower",
        "Prefill of the whole prompt until the first token is available.",
        label="Time to first token",
    ),
    shared.PREFILL_TOKENS_PER_SECOND,
    Metric(
        "clean_ratio",
        "1",
        "higher",
        "Speed in the caller's environment ÷ in a clean one (label: phase). Each sample is the median over the"
        " interleaved turns of one pair of starts.",
        statistics=("geometric mean", "median"),
        label="Speed against a clean environment",
    ),
    Metric(
        "time_per_output_token_p95",
        "s",
        "lower",
        "95th percentile of the time of a decoding step.",
        statistics=("p95",),
        label="Time per output token, p95",
    ),
    Metric(
        "time_per_output_token_p99",
        "s",
        "lower",
        "99th percentile of the time of a decoding step.",
        statistics=("p99",),
        label="Time per output token, p99",
    ),
    Metric(
        "time_to_first_token_p95",
        "s",
        "lower",
        "95th percentile of the time to first token.",
        statistics=("p95",),
        label="Time to first token, p95",
    ),
    Metric(
        "time_to_first_token_p99",
        "s",
        "lower",
        "99th percentile of the time to first token.",
        statistics=("p99",),
        label="Time to first token, p99",
    ),
    Metric(
        "bandwidth_utilisation",
        "1",
        "higher",
        "(Weights + KV cache that a decoding step must read) ÷ its time ÷ the boards' memory bandwidth.",
        label="Memory bandwidth utilisation",
    ),
    Metric(
        "graph_replays",
        "1",
        "higher",
        "CUDA graphs replayed per decoding step in steady state.",
        label="CUDA graph replays per step",
    ),
    Metric(
        "graph_captures",
        "1",
        "lower",
        "CUDA graphs captured per decoding step in steady state.",
        label="CUDA graph captures per step",
    ),
    Metric(
        "plain_launches",
        "1",
        "lower",
        "Kernels launched individually, outside a CUDA graph, per decoding step in steady state.",
        label="Single kernel launches per step",
    ),
    shared.PEAK_MEMORY,
    Metric(
        "threads",
        "1",
        None,
        "Threads that torch uses for computing on the CPU.",
        kind="count",
        label="CPU threads of torch",
    ),
)
