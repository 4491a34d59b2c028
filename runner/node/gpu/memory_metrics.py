"""What `gpu_state --group memory` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "uncorrected_memory_errors",
        "1",
        "lower",
        "Uncorrectable ECC errors of one GPU since its last reset.",
        kind="count",
        label="Uncorrectable memory errors",
    ),
    Metric(
        "remapped_rows",
        "1",
        "lower",
        "Rows of one GPU's memory that were replaced by spare ones, since the board was made.",
        kind="count",
        label="Remapped rows",
    ),
    Metric(
        "failed_remap_share",
        "1",
        "lower",
        "GPUs on which a row remapping failed ÷ GPUs with remapped rows.",
        kind="share",
        label="Share of remapped GPUs that failed",
    ),
)
