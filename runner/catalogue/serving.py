"""One GPU after a rollback: leftovers, prefill, decoding."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "stale_variables": Metric(
            "1",
            "lower",
            "Variables that a multi-GPU launch left behind and that harm a single-GPU server.",
            kind="count",
        ),
        "rendezvous_time": Metric("s", "lower", "From the call to join a process group until it is joined."),
        "time_to_first_token": Metric(
            "s", "lower", "Prefill of the whole prompt until the first token is known."
        ),
        "time_per_output_token": Metric(
            "s", "lower", "One decoding step of the batch, first token not counted."
        ),
        "time_to_first_token_p95": Metric(
            "s", "lower", "95th percentile of the time to first token.", statistics=("p95",)
        ),
        "time_to_first_token_p99": Metric(
            "s", "lower", "99th percentile of the time to first token.", statistics=("p99",)
        ),
        "time_per_output_token_p95": Metric(
            "s", "lower", "95th percentile of the time of a decoding step.", statistics=("p95",)
        ),
        "time_per_output_token_p99": Metric(
            "s", "lower", "99th percentile of the time of a decoding step.", statistics=("p99",)
        ),
        "bandwidth_utilisation": Metric(
            "1",
            "higher",
            "(Weights + KV cache that a decoding step must read) ÷ its time ÷ the boards' memory bandwidth.",
        ),
        "graph_replays": Metric("1", "higher", "CUDA graphs replayed per decoding step in steady state."),
        "graph_captures": Metric("1", "lower", "CUDA graphs captured per decoding step in steady state."),
        "plain_launches": Metric(
            "1", "lower", "Kernels launched one by one per decoding step in steady state."
        ),
        "tokens_per_second": Metric("token/s", "higher", "Batch size ÷ time of one decoding step."),
        "prefill_tokens_per_second": Metric(
            "token/s", "higher", "Prompt tokens of the batch ÷ time to first token."
        ),
        "threads": Metric("1", None, "Threads that torch computes with on the CPU.", kind="count"),
        "clean_ratio": Metric(
            "1",
            "higher",
            "Speed under the caller's environment ÷ under a clean one, each sample the median of the interleaved turns"
            " of two starts, taken until they decide (label: phase).",
            statistics=("geometric mean", "median"),
        ),
        "peak_memory": Metric("B", "lower", "Most memory that tensors held at once on the device."),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "stale_env": ProbeInfo(
            1, "What a multi-GPU launch left behind in the environment", ("stale_variables",)
        ),
        "rendezvous": ProbeInfo(
            1, "Whether one process comes up, or waits for ranks that never come", ("rendezvous_time",)
        ),
        "gpt_large_optimized": ProbeInfo(
            4,
            "Prefill and greedy decoding of a large model with a static KV cache",
            (
                "tokens_per_second",
                "time_per_output_token",
                "time_to_first_token",
                "prefill_tokens_per_second",
                "clean_ratio",
                "time_per_output_token_p95",
                "time_per_output_token_p99",
                "time_to_first_token_p95",
                "time_to_first_token_p99",
                "bandwidth_utilisation",
                "graph_replays",
                "graph_captures",
                "plain_launches",
                "peak_memory",
                "threads",
            ),
            Compiles(),
            labels=("model", "batch_size", "prompt_length", "ranks", "mode", "arm", "phase"),
        ),
    }
)
