"""Long prompts and training steps: what takes the memory."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "predicted_memory": Metric(
            "B",
            None,
            "Peak by arithmetic: weights + KV cache + optimizer state + max(activations + gradients, logits).",
        ),
        "prediction_ratio": Metric("1", None, "Predicted peak ÷ measured peak; 1 is exact."),
        "kv_cache": Metric(
            "B", "lower", "KV cache: 2 × layers × kv_heads × head_dim × tokens × batch × bytes per element."
        ),
        "kv_cache_difference": Metric(
            "B", None, "Bytes of the cache's tensors less those of the formula; 0 is exact.", kind="signed"
        ),
        "prompt_done": Metric(
            "1",
            "higher",
            "Share of a prompt's work that was done when it ended; 1 is all of it.",
            kind="share",
        ),
        "smallest_prompt_done": Metric(
            "1", "higher", "Least share done among prompts that ran out of memory.", kind="share"
        ),
        "longest_fitting": Metric(
            "1", "higher", "Longest prompt of the sweep, in tokens, that fitted; 0 if none did.", kind="count"
        ),
        "memory_headroom": Metric(
            "B", "higher", "Budget less the highest peak of the sweep or plan.", kind="signed"
        ),
        "prefill_time": Metric(
            "s",
            "lower",
            "Wall seconds of one prefill, its cache laid out included; memory is followed meanwhile.",
        ),
        "step_time": Metric(
            "s",
            "lower",
            "Wall seconds of one training step: forward, backward, optimizer; memory is followed.",
        ),
        "rank_peak_memory": Metric(
            "B", "lower", "Most memory that tensors held at once on one rank's device (label: rank)."
        ),
        "reserved_memory": Metric("B", None, "Most memory that a GPU's caching allocator had reserved."),
        "device_free": Metric("B", "higher", "Memory that a GPU had left after the work, by its driver."),
        "held_memory": Metric(
            "B", None, "What held a device's memory when the work ran out of it (label: part)."
        ),
        "quadratic_share": Metric(
            "1",
            "lower",
            "Share of the growth up to the longest prompt that goes with its square, by a fit of a + b·n + c·n².",
            kind="signed",
        ),
        "predicted_longest": Metric(
            "1",
            "higher",
            "Longest prompt in tokens predicted to fit: by arithmetic, or by the growth measured less a margin of 5 %.",
            kind="count",
        ),
        "limit_fits": Metric(
            "1",
            None,
            "1 where a run fitted: at the longest prompt predicted, or beyond, at 1.25 times it.",
            kind="flag",
        ),
        "remedy_saving": Metric(
            "B", "higher", "Peak without a remedy less the peak with it, at one length.", kind="signed"
        ),
        "remedy_memory_ratio": Metric("1", "lower", "Peak with a remedy ÷ without; 1 is no gain."),
        "remedy_time_ratio": Metric(
            "1",
            "lower",
            "Seconds with a remedy ÷ without, in interleaved pairs; memory is not followed meanwhile.",
        ),
        "largest_batch": Metric(
            "1",
            "higher",
            "Sequences of one length that fit at once, by arithmetic; 0 if not even one does.",
            kind="count",
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "long_context_validation": ProbeInfo(
            2,
            "Peak memory of long prompts and training steps, predicted and measured, under a budget",
            (
                "longest_fitting",
                "peak_memory",
                "predicted_memory",
                "prediction_ratio",
                "kv_cache",
                "kv_cache_difference",
                "prompt_done",
                "smallest_prompt_done",
                "memory_headroom",
                "prefill_time",
                "step_time",
                "largest_batch",
                "predicted_longest",
                "limit_fits",
                "quadratic_share",
                "remedy_saving",
                "remedy_memory_ratio",
                "remedy_time_ratio",
                "rank_peak_memory",
                "held_memory",
                "reserved_memory",
                "device_free",
            ),
            labels=("tokens", "rank", "part", "by", "run", "remedy"),
        ),
    }
)
