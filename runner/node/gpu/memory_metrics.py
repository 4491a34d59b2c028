"""What `gpu_state --group memory` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
