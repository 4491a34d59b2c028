"""What `host_paths --group limits` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
