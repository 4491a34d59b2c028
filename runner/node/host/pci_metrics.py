"""What `host_paths --group pci` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "narrow_links",
        "1",
        "lower",
        "PCIe links between a GPU or an RDMA adapter and its root port with fewer lanes than both ends have.",
        kind="count",
        label="Narrow PCIe links",
    ),
    Metric(
        "far_gpus",
        "1",
        "lower",
        "GPUs of the judged process whose NUMA node has none of the CPUs that the process may use.",
        kind="count",
        label="GPUs on the far NUMA node",
    ),
)
