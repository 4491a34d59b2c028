"""What `gpu_state --group software` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "gpus_opened",
        "1",
        "higher",
        "GPUs that NVML opens for this process.",
        kind="count",
        label="GPUs opened",
    ),
)
