"""What `gpu_state --group pcie` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
