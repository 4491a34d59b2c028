"""What `host_paths --group rdma` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = ()
