"""The driver's own word on what a GPU needs: its recovery action, told by NVML (field 230) and by Xid 154. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.node.findings import Action


@dataclass(frozen=True)
class RecoveryAction:
    """One value.

    Attributes:
        number: as NVML and Xid 154 give it.
        name: this project's name of it; drivers name one number differently (`GPU Reset Required`, `PF FLR`).
        action: None for a number that is not known here.
    """

    number: int
    name: str
    action: Action | None


# Numbers and names: nvml.h, NVML_GPU_RECOVERY_ACTION_… (nvidia-ml-py 13). A GPU that asks to be drained of peer-to-peer
# traffic takes no new job until its state changes; "drain and reset" is this project's `reset`.
_ACTIONS: Mapping[int, tuple[str, Action]] = MappingProxyType(
    {
        0: ("none", Action.KEEP),
        1: ("GPU reset", Action.RESET),
        2: ("node reboot", Action.DRAIN),
        3: ("drain peer-to-peer traffic", Action.DRAIN),
        4: ("drain and reset", Action.RESET),
        5: ("recover the IMEX domain", Action.DRAIN),
        6: ("bus reset", Action.RESET),
        7: ("system reboot", Action.DRAIN),
    }
)


def recovery_action(number: int) -> RecoveryAction:
    """The recovery action of a number of NVML or of Xid 154."""
    name, action = _ACTIONS.get(number, (f"recovery action {number}, not known here", None))
    return RecoveryAction(number, name, action)
