"""What `gpu_state --group fabric` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
