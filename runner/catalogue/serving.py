"""One GPU after a rollback: leftovers, prefill, decoding."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "stale_variables": Metric(
            "1",
            "lower",
            "Variables left by a multi-GPU launch that harm a single-GPU server.",
            kind="count",
            label="Harmful leftover variables",
        ),
        "rendezvous_time": Metric(
            "s",
            "lower",
            "Seconds from the call that joins a process group until it has joined.",
            label="Rendezvous time",
        ),
        "time_to_first_token": Metric(
            "s",
            "lower",
            "Prefill of the whole prompt until the first token is available.",
            label="Time to first token",
        ),
        "time_per_output_token": Metric(
            "s",
            "lower",
            "One decoding step of the batch; the first token is not counted.",
            label="Time per output token",
        ),
        "time_to_first_token_p95": Metric(
            "s",
            "lower",
            "95th percentile of the time to first token.",
            statistics=("p95",),
            label="Time to first token, p95",
        ),
        "time_to_first_token_p99": Metric(
            "s",
            "lower",
            "99th percentile of the time to first token.",
            statistics=("p99",),
            label="Time to first token, p99",
        ),
        "time_per_output_token_p95": Metric(
            "s",
            "lower",
            "95th percentile of the time of a decoding step.",
            statistics=("p95",),
            label="Time per output token, p95",
        ),
        "time_per_output_token_p99": Metric(
            "s",
            "lower",
            "99th percentile of the time of a decoding step.",
            statistics=("p99",),
            label="Time per output token, p99",
        ),
        "bandwidth_utilisation": Metric(
            "1",
            "higher",
            "(Weights + KV cache that a decoding step must read) ÷ its time ÷ the boards' memory bandwidth.",
            label="Memory bandwidth utilisation",
        ),
        "graph_replays": Metric(
            "1",
            "higher",
            "CUDA graphs replayed per decoding step in steady state.",
            label="CUDA graph replays per step",
        ),
        "graph_captures": Metric(
            "1",
            "lower",
            "CUDA graphs captured per decoding step in steady state.",
            label="CUDA graph captures per step",
        ),
        "plain_launches": Metric(
            "1",
            "lower",
            "Kernels launched individually, outside a CUDA graph, per decoding step in steady state.",
            label="Single kernel launches per step",
        ),
        "tokens_per_second": Metric(
            "token/s", "higher", "Batch size ÷ time of one decoding step.", label="Decoding speed"
        ),
        "prefill_tokens_per_second": Metric(
            "token/s", "higher", "Prompt tokens of the batch ÷ time to first token.", label="Prefill speed"
        ),
        "threads": Metric(
            "1",
            None,
            "Threads that torch uses for computing on the CPU.",
            kind="count",
            label="CPU threads of torch",
        ),
        "clean_ratio": Metric(
            "1",
            "higher",
            "Speed in the caller's environment ÷ in a clean one (label: phase). Each sample is the median over the"
            " interleaved turns of one pair of starts.",
            statistics=("geometric mean", "median"),
            label="Speed against a clean environment",
        ),
        "peak_memory": Metric(
            "B", "lower", "Peak of the memory held by tensors on the device.", label="Peak memory"
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "stale_env": ProbeInfo(
            1, "Variables that a multi-GPU launch left in the environment", ("stale_variables",)
        ),
        "rendezvous": ProbeInfo(
            1, "Whether one process starts, or waits for ranks that do not exist", ("rendezvous_time",)
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
