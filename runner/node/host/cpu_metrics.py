"""What `host_paths --group cpu` measures."""

from runner.vocabulary.model import Metric
from runner.vocabulary.shared import THROTTLED_PERIODS

METRICS: tuple[Metric, ...] = (
    Metric(
        "allowed_cores",
        "1",
        None,
        "Cores that the judged process may use, by its affinity and its cpuset.",
        kind="count",
        label="Allowed cores",
    ),
    Metric(
        "quota_cores",
        "1",
        None,
        "Cores that the smallest CPU quota of its control groups gives to all that is in the group.",
        label="Cores by quota",
    ),
    Metric(
        "core_wait_share",
        "1",
        "lower",
        "Time in which its threads, and its children's, were ready without a core ÷ that and their running time.",
        kind="share",
        label="Wait for a core",
    ),
    THROTTLED_PERIODS,
)
