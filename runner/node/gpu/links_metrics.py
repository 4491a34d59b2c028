"""What `gpu_state --group links` measures."""

from runner.vocabulary.model import Metric
from runner.vocabulary.shared import NVLINKS_ACTIVE

METRICS: tuple[Metric, ...] = (
    NVLINKS_ACTIVE,
    Metric(
        "nvlinks_with_new_errors",
        "1",
        "lower",
        "NVLinks of the node on which an error counter grew while it was watched.",
        kind="count",
        label="NVLinks with new errors",
    ),
    Metric(
        "nvlink_errors_still_moving",
        "1",
        "lower",
        "NVLinks on which an error counter grew while it was watched ÷ NVLinks whose error counters are not zero.",
        kind="share",
        label="Share of NVLinks with errors still going",
    ),
)
