"""What the driver asks for, of each GPU that answers."""

from collections.abc import Sequence

from runner.node.gpu.asking import NvmlAsker, OpenGpu
from runner.node.recovery import RECOVERY_FIELD, RecoveryRequest, recovery_numbered


def read_recovery_requests(asker: NvmlAsker, gpus: Sequence[OpenGpu]) -> dict[str, RecoveryRequest]:
    """PCI address → request; a GPU or a driver that does not tell has none."""
    found = {}
    for gpu in gpus:
        number = asker.field(gpu.handle, RECOVERY_FIELD, of=gpu.where)
        if gpu.bus_id is not None and number is not None:
            found[gpu.bus_id] = recovery_numbered(number)
    return found
