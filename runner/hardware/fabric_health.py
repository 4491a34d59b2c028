"""What the health mask of NVML's fabric information says. Pure.

The layout is that of NVML's header, as in nvidia-ml-py 13.615: fields of two or four bits, in which 0 always means that
the driver does not report the field.
"""

from dataclasses import dataclass
from typing import Literal

Condition = Literal[
    "bandwidth", "recovery", "route", "timeout", "configuration", "partition", "manager", "summary"
]

_YES, _NO = 1, 2
_CONDITIONS: tuple[tuple[Condition, int, str], ...] = (
    ("bandwidth", 0, "degraded bandwidth"),
    ("recovery", 2, "a route in recovery"),
    ("route", 4, "an unhealthy route"),
    ("timeout", 6, "recovery from access timeouts"),
)
_CONFIGURATION_SHIFT, _CONFIGURATION_BITS = 8, 0xF
# 0 is not supported, 1 is not a fault.
_CONFIGURATIONS = {
    2: "an incorrect system GUID",
    3: "an incorrect serial number of the chassis",
    4: "no partition",
    5: "too few NVLinks",
    6: "incompatible firmware of the GPU",
    7: "an invalid location",
    8: "an invalid state of the GPU",
}
_FIRST_KNOWN_FAULT = 2
_PARTITION_SHIFT, _MANAGER_SHIFT = 12, 14
_SUMMARIES = {2: "unhealthy", 3: "limited in capacity"}


@dataclass(frozen=True)
class FabricComplaint:
    """One thing that the driver reports about a GPU's side of the fabric: which, and in words."""

    condition: Condition
    text: str

    @property
    def is_fault(self) -> bool:
        """Whether it impairs a GPU that is registered: without a manager its jobs still run."""
        return self.condition not in {"partition", "manager"}


def fabric_complaints(mask: int, summary: int = 0) -> tuple[FabricComplaint, ...]:
    """What the driver complains about; fields that it does not report are no complaint.

    Args:
        mask: `healthMask` of nvmlGpuFabricInfo_v2_t or later.
        summary: `healthSummary` of version 3; 0 if the driver has none. It counts only if no field of the mask says
            more.
    """
    found = [
        FabricComplaint(condition, text)
        for condition, shift, text in _CONDITIONS
        if _field(mask, shift) == _YES
    ]
    configuration = mask >> _CONFIGURATION_SHIFT & _CONFIGURATION_BITS
    if configuration >= _FIRST_KNOWN_FAULT:
        text = _CONFIGURATIONS.get(configuration, f"an incorrect configuration of kind {configuration}")
        found.append(FabricComplaint("configuration", text))
    if _field(mask, _PARTITION_SHIFT) == _NO:
        found.append(FabricComplaint("partition", "no partition assigned"))
    if _field(mask, _MANAGER_SHIFT) == _NO:
        found.append(FabricComplaint("manager", "no connection to the global Fabric Manager"))
    if not found and summary in _SUMMARIES:
        found.append(FabricComplaint("summary", f"a fabric that is {_SUMMARIES[summary]}"))
    return tuple(found)


def _field(mask: int, shift: int) -> int:
    return mask >> shift & 3
