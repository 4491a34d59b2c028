"""What `gpu_state --group clocks` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
