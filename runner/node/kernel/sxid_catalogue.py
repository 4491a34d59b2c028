"""NVSwitch errors (SXid) by number: what they mean, and which need the whole node to restart. Pure.

Whether an SXid is fatal stands in its line. Sources: names in `ctrl_dev_nvswitch.h` (NVIDIA/open-gpu-kernel-modules);
the groups in NVIDIA, "Fabric Manager for NVIDIA NVSwitch Systems", DU-09883-001 v1.3 (2023-10), appendix D, as
leptonai/gpud copies them into `components/accelerator/nvidia/sxid/sxid.go`. Blackwell's NVLink switches report no SXid
to this kernel.
"""

from collections.abc import Mapping
from types import MappingProxyType

from runner.node.findings import Action

SXID_SOURCE = "NVIDIA, Fabric Manager user guide v1.3 (2023-10), appendix D"
# Group "always fatal": the host restarts. (10003, also fatal to the fabric, asks for a reset of all GPUs and switches.)
_ALWAYS_FATAL = frozenset({12020, 22003, 22011, *range(23001, 23018)})
# Group "non-fatal", but the GPU's traffic stalls and the driver ends its programs (Xid 45): the job cannot go on.
_STALLS = frozenset({11004, 12028})
# Group "non-fatal", and the guide asks for a reset of all GPUs and switches.
_ASKS_FOR_RESET = frozenset({19084})
# By thousand: the part of the switch.
_PARTS: Mapping[int, str] = MappingProxyType(
    {
        10: "host interface of the switch",
        11: "port, ingress",
        12: "port, egress",
        13: "port, flow state",
        14: "port, tag state",
        15: "port, routing",
        16: "port",
        17: "link control",
        18: "link interface",
        19: "link, transaction layer",
        20: "link, data link layer",
        21: "crossbar",
        22: "link controller (Minion)",
        23: "crossbar",
        24: "port, source tracking",
        25: "link interface",
        26: "switch controller",
    }
)
_MEANINGS: Mapping[int, str] = MappingProxyType(
    {
        10001: "a register access by the host failed",
        10002: "a register access by the host timed out",
        10003: "an interrupt that is never expected",
        10004: "the switch is too hot; links may go to one lane",
        10005: "the switch is no longer too hot",
        10006: "the switch shut down because of heat",
        10008: "the firmware did not start",
        11001: "an invalid command at the ingress",
        11004: "traffic that the partition does not allow",
        11012: "corrected ECC errors in headers, ingress",
        11013: "an uncorrectable ECC error in a header, ingress",
        11021: "corrected ECC errors in a table, ingress",
        11022: "corrected ECC errors in a table, ingress",
        11023: "corrected ECC errors in a table, ingress",
        12020: "packets out of sequence at the egress",
        12021: "corrected ECC errors in headers, egress",
        12022: "an uncorrectable ECC error in a header, egress",
        12023: "corrected ECC errors in headers, egress",
        12024: "an uncorrectable ECC error in a header, egress",
        12028: "a request was answered with a privilege error",
        12033: "no credit came in time at the egress",
        14017: "an answer did not come in time",
        15008: "corrected ECC errors in a routing table",
        15009: "an uncorrectable ECC error in a routing table",
        15011: "corrected ECC errors in routing",
        15012: "an uncorrectable ECC error in routing",
        19049: "corrected ECC errors, sending side",
        19055: "corrected ECC errors, receiving side",
        19057: "corrected ECC errors, receiving side",
        19059: "corrected ECC errors, receiving side",
        19062: "corrected ECC errors, sending side",
        19065: "corrected ECC errors, sending side",
        19068: "corrected ECC errors, sending side",
        19071: "corrected ECC errors, sending side",
        19084: "the other end of a link sends no heartbeat",
        20001: "packets were sent again",
        20009: "many bit errors in a short time on a link",
        20012: "many CRC errors on a link",
        20034: "a link failed and went down",
        20035: "a link failed on its way down",
        22003: "the link controller halted",
        22011: "an external error of the link controller",
        22012: "a fatal interrupt of a link",
        22013: "an interrupt of a link, not fatal",
        24001: "corrected ECC errors in source tracking",
        24002: "corrected ECC errors in source tracking",
        24003: "corrected ECC errors in source tracking",
        24004: "an uncorrectable ECC error in source tracking",
        24005: "an uncorrectable ECC error in source tracking",
        24006: "an uncorrectable ECC error in source tracking",
        24007: "an answer did not come in time (source tracking)",
        25001: "a link state was requested that is not allowed",
        25010: "a link could not be trained",
    }
)


def sxid_meaning(code: int) -> str | None:
    """What a code means; of one that is not listed, which part of the switch reports it; None for others."""
    if code in _MEANINGS:
        return _MEANINGS[code]
    part = _PARTS.get(code // 1000)
    return None if part is None else f"an error in the switch: {part}"


def sxid_action(code: int, *, fatal: bool) -> Action:
    """What a code asks for.

    A fatal one ends the jobs of the port's GPUs, which need a reset with the switches; some need a restart of the node.
    Most of the others are corrected; a few stall the traffic of a GPU.
    """
    if not fatal:
        return Action.RESET if code in _ASKS_FOR_RESET else Action.RESTART if code in _STALLS else Action.KEEP
    return Action.DRAIN if code in _ALWAYS_FATAL else Action.RESET
