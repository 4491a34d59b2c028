"""What `gpu_state --group links` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
