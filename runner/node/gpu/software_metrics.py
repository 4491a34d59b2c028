"""What `gpu_state --group software` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
