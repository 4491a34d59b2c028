"""The action that NVIDIA's driver itself asks for: NVML's field GET_GPU_RECOVERY_ACTION, and Xid 154. Pure.

Numbers: nvidia-ml-py 13.615, `NVML_GPU_RECOVERY_ACTION_*`. Meanings: NVIDIA, GPU Memory Error Management, section Error
Recovery and Response Flags; for 5 to 7, the comments of NVML's enum.
"""

import re
from dataclasses import dataclass

from runner.node.findings import Action

# The number of the field.
RECOVERY_FIELD = 230
RECOVERY_SOURCE = "NVIDIA's driver on this node (GPU recovery action), which is above any table"


@dataclass(frozen=True)
class RecoveryRequest:
    """What the driver asks for.

    Attributes:
        words: in nvidia-smi's words: `Reset`; `None` if it asks for nothing.
        action: the same as one of this project's actions.
        next: what to do.
    """

    words: str
    action: Action
    next: str

    @property
    def asks(self) -> bool:
        """Whether anything has to be done."""
        return self.action is not Action.KEEP

    @property
    def vendor(self) -> str:
        """For `NodeFinding.vendor`: `Reset (GPU recovery action)`."""
        return f"{self.words} (GPU recovery action)"


_REBOOT = "drain the node and reboot it: a reset of the GPU is not enough"
_RESET = "end all processes of the GPU and reset it (nvidia-smi --gpu-reset -i, as root); then read it again"
_BY_NUMBER = (
    RecoveryRequest("None", Action.KEEP, "nothing"),
    RecoveryRequest("Reset", Action.RESET, _RESET),
    RecoveryRequest("Reboot", Action.DRAIN, _REBOOT),
    RecoveryRequest(
        "Drain P2P",
        Action.DRAIN,
        "drain the node, end all processes that use peer access, switch off UVM persistence, then read it again",
    ),
    RecoveryRequest(
        "Drain and Reset",
        Action.RESET,
        "start no new process on the GPU, let the running ones end, and reset it (nvidia-smi --gpu-reset -i)",
    ),
    RecoveryRequest(
        "Recover IMEX Domain", Action.DRAIN, "drain the node and recover the IMEX domain: see its service"
    ),
    RecoveryRequest(
        "Bus Reset", Action.DRAIN, "drain the node and reset the GPU's PCIe bus, or power-cycle it"
    ),
    RecoveryRequest("System Reboot", Action.DRAIN, _REBOOT),
)
# nvidia-smi writes `Drain and Reset`, some systems `GPU_RESET` or `NODE_REBOOT`.
_BY_WORDS = {one.words.lower(): one for one in _BY_NUMBER} | {
    "gpu reset": _BY_NUMBER[1],
    "node reboot": _BY_NUMBER[2],
}


def recovery_numbered(number: int) -> RecoveryRequest:
    """The request with NVML's number; a number that is not known here drains the node."""
    if 0 <= number < len(_BY_NUMBER):
        return _BY_NUMBER[number]
    return RecoveryRequest(
        f"number {number}",
        Action.DRAIN,
        "drain the node, and look this action up in the documentation of its driver",
    )


def recovery_worded(words: str) -> RecoveryRequest | None:
    """The request in the words of nvidia-smi; None for other words, which may be those of a text that was cut off."""
    return _BY_WORDS.get(re.sub(r"[_\s]+", " ", words).strip().lower())
