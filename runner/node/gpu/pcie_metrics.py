"""What `gpu_state --group pcie` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "pcie_width_share",
        "1",
        "higher",
        "Lanes that the GPU's PCIe link uses ÷ lanes that the GPU and its slot can use together.",
        kind="share",
        label="PCIe lanes in use ÷ possible",
    ),
    Metric(
        "pcie_generation_share",
        "1",
        "higher",
        "PCIe generation of the GPU's link ÷ the highest of GPU and slot; in a watch, the highest seen.",
        kind="share",
        label="PCIe generation ÷ possible",
    ),
    Metric(
        "pcie_replays_per_minute",
        "1",
        "lower",
        "PCIe packets that the GPU had to send again, per minute of a watch.",
        label="PCIe replays per minute",
    ),
)
