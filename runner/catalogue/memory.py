"""Memory of long prompts and training steps."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "predicted_memory": Metric(
            "B",
            None,
            "Peak by formula: weights + KV cache + optimizer state + max(activations + gradients, logits).",
            label="Predicted peak memory",
        ),
        "prediction_ratio": Metric(
            "1", None, "Predicted peak ÷ measured peak; 1 is exact.", label="Predicted over measured peak"
        ),
        "kv_cache": Metric(
            "B",
            "lower",
            "KV cache: 2 × layers × kv_heads × head_dim × tokens × batch × bytes per element.",
            label="KV cache size",
        ),
        "kv_cache_difference": Metric(
            "B",
            None,
            "Bytes of the cache's tensors minus those of the formula; 0 is exact.",
            kind="signed",
            label="KV cache: measured minus formula",
        ),
        "prompt_done": Metric(
            "1",
            "higher",
            "Share of a prompt's work that was complete when it ended; 1 is all of it.",
            kind="share",
            label="Share of the prompt processed",
        ),
        "smallest_prompt_done": Metric(
            "1",
            "higher",
            "Smallest share of work complete among prompts that ran out of memory.",
            kind="share",
            label="Smallest share processed",
        ),
        "longest_fitting": Metric(
            "1",
            "higher",
            "Longest prompt of the sweep, in tokens, that fitted; 0 if none did.",
            kind="count",
            label="Longest prompt that fits",
        ),
        "memory_headroom": Metric(
            "B",
            "higher",
            "Budget minus the highest peak of the sweep or plan.",
            kind="signed",
            label="Memory headroom",
        ),
        "prefill_time": Metric(
            "s",
            "lower",
            "Wall seconds of one prefill, cache allocation included. On a GPU of a second run, else tracked.",
            label="Time of one prefill",
        ),
        "step_time": Metric(
            "s",
            "lower",
            "Wall seconds of one training step, optimizer included. On a GPU of a second run, else tracked.",
            label="Training step time",
        ),
        "rank_peak_memory": Metric(
            "B",
            "lower",
            "Peak of the memory held by tensors on one rank's device (label: rank).",
            label="Peak memory of a rank",
        ),
        "reserved_memory": Metric(
            "B", None, "Peak of the memory reserved by a GPU's caching allocator.", label="Reserved memory"
        ),
        "device_free": Metric(
            "B",
            "higher",
            "Free memory of a GPU after the work, as reported by the driver.",
            label="Free device memory",
        ),
        "held_memory": Metric(
            "B",
            None,
            "What held a device's memory when it ran out (label: part).",
            label="Memory held when it ran out",
        ),
        "quadratic_share": Metric(
            "1",
            "lower",
            "Share of the growth up to the longest prompt that is quadratic in its length; from a fit a + b·n + c·n².",
            kind="signed",
            label="Quadratic share of memory growth",
        ),
        "predicted_longest": Metric(
            "1",
            "higher",
            "Longest prompt in tokens predicted to fit: by formula, or by the measured growth; a margin is kept.",
            kind="count",
            label="Predicted longest prompt",
        ),
        "limit_fits": Metric(
            "1",
            None,
            "1 if a run fitted: at the predicted longest prompt, or beyond it, at 1.25 times that length.",
            kind="flag",
            label="Run at the predicted limit fits",
        ),
        "remedy_saving": Metric(
            "B",
            "higher",
            "Peak without a remedy minus the peak with it, at one length.",
            kind="signed",
            label="Memory saved by a remedy",
        ),
        "remedy_memory_ratio": Metric(
            "1",
            "lower",
            "Peak with a remedy ÷ without; 1 is no saving.",
            label="Peak memory with a remedy ÷ without",
        ),
        "remedy_time_ratio": Metric(
            "1",
            "lower",
            "Seconds with a remedy ÷ without, in interleaved pairs, with memory tracking off.",
            label="Time with a remedy ÷ without",
        ),
        "largest_batch": Metric(
            "1",
            "higher",
            "Sequences of one length that fit at once, by formula; 0 if none does.",
            kind="count",
            label="Largest batch that fits",
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "long_context_validation": ProbeInfo(
            2,
            "Peak memory of long prompts and training steps, predicted and measured, within a budget",
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
