"""What `host_paths --group pci` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
