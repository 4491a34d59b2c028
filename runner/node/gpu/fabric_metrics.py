"""What `gpu_state --group fabric` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "fabric_ready",
        "1",
        "higher",
        "1 if the GPU's registration with the NVLink fabric is complete without an error, and the driver reports the"
        " fabric as healthy or does not report its health; else 0.",
        kind="flag",
        label="Fabric ready",
    ),
)
