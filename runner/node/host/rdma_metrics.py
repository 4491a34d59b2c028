"""What `host_paths --group rdma` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "rdma_ports_active",
        "1",
        "higher",
        "RDMA ports in state ACTIVE, without management functions of NVSwitches.",
        kind="count",
        label="Active RDMA ports",
    ),
    Metric(
        "rdma_port_rate",
        "B/s",
        "higher",
        "Rate of an active RDMA port, as the kernel reports it: Gb/s × 10⁹ ÷ 8. Of the link, not of the data.",
        label="Rate of an RDMA port",
    ),
    Metric(
        "rdma_link_downs",
        "1",
        "lower",
        "How often the link of an RDMA port went down between two readings: by link_downed, or by carrier_changes.",
        kind="count",
        label="Link downs of an RDMA port",
    ),
)
