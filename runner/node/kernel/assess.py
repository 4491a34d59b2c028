"""What one event of a GPU asks for by itself: the catalog's action, or what the text of its line decides. Pure."""

import re
from dataclasses import dataclass

from runner.base.words import bracketed
from runner.node.findings import Action
from runner.node.kernel.events import KernelEvent
from runner.node.kernel.nvlink5 import NVLINK5_CODES, link_error
from runner.node.kernel.xid_catalogue import CATALOG, xid_row
from runner.node.recovery import RecoveryRequest, recovery_numbered

_CAUSED_BY = re.compile(r"caused by previous Xid (\d{1,6})")
# `Contained: SM (0x1). RST: No, D-RST: No`: whether the GPU needs a reset, or to be drained and reset.
_NEEDS_RESET = re.compile(r"\bRST: (?P<reset>Yes|No), D-RST: (?P<drained>Yes|No)\b")
_CHANGED_TO = re.compile(r" to 0x([0-9A-Fa-f]{1,4}) \(([^)]{1,60})\)")
_REGISTERS = re.compile(r"link {0,2}(\d{1,3}) ?\((0x[0-9A-Fa-f]{1,8}(?:, ?0x[0-9A-Fa-f]{1,8}){1,7})\)")
# Xid 74, by register and bit: "can be safely ignored", and corrected errors above a threshold, "continue operation".
_HARMLESS_74 = {0: 1 << 0 | 1 << 23 | 1 << 30, 4: 1 << 20 | 1 << 23 | 1 << 26 | 1 << 29}
PREEMPTED, RECOVERY = 45, 154
_POISON = frozenset({94, 95})
_IN_THE_LINE = "the driver's own words in the line (RST, D-RST), which are above the catalog"
_NVLINK = 74
_REMAPS, _UNCORRECTABLE, _IN_SRAM = frozenset({63, 64}), frozenset({48, 94, 95, 140, 171, 172}), 172
# A controller that stopped, or a GPU that did not start: with the driver, not with the program.
_OWN = {
    "gpu-lost": ("bus", Action.DRAIN, "the GPU does not answer on PCIe", f"{CATALOG}, Xid 79: RESTART_BM"),
    "gpu-init-failed": (
        "init",
        Action.DRAIN,
        "the driver could not initialise the GPU",
        "chosen here: no program can use the GPU until the driver starts it",
    ),
}


@dataclass(frozen=True)
class Assessment:
    """What an event asks for.

    Attributes:
        event: it.
        family: events of one family on one GPU have one cause.
        action: None if nothing tells it: the event is unknown, not harmless.
        meaning: in one clause.
        source: whose decision the action is.
        hint: where to look for the cause; may be empty.
    """

    event: KernelEvent
    family: str
    action: Action | None
    meaning: str
    source: str
    hint: str = ""

    @property
    def name(self) -> str:
        """`Xid 79`, or the kind of another event."""
        return self.event.kind if self.event.code is None else f"Xid {self.event.code}"


def assess(event: KernelEvent) -> Assessment:
    """What the event asks for, before other events are looked at."""
    if event.kind in _OWN:
        family, action, meaning, source = _OWN[event.kind]
        return Assessment(event, family, action, f"{meaning}{bracketed(event.detail)}", source)
    row = None if event.code is None else xid_row(event.code)
    if row is None:
        return Assessment(event, "unknown", None, "a code that the catalog of 2025-10 does not have", CATALOG)
    if row.code in NVLINK5_CODES:
        return _nvlink5(event, row.meaning)
    if row.code == _NVLINK:
        return _nvlink(event, row.meaning)
    hint = _memory_hint(event)
    if row.code in _POISON and (told := _NEEDS_RESET.search(event.detail)) and "Yes" in told.groups():
        meaning = f"{row.meaning}; the GPU needs a reset"
        return Assessment(event, row.family, Action.RESET, meaning, _IN_THE_LINE, hint)
    return Assessment(event, row.family, row.action, row.meaning, row.source, hint)


def previous_xid(event: KernelEvent) -> int | None:
    """The Xid that an Xid 45 names as its cause."""
    found = _CAUSED_BY.search(event.detail)
    return int(found[1]) if found else None


def recovery_of(event: KernelEvent) -> tuple[RecoveryRequest, str] | None:
    """The action that an Xid 154 changed to, and the driver's words for it; None if the line does not tell."""
    found = _CHANGED_TO.search(event.detail)
    return (recovery_numbered(int(found[1], 16)), found[2]) if found else None


def _nvlink5(event: KernelEvent, meaning: str) -> Assessment:
    error = link_error(event.code or 0, event.detail)
    if error is None:
        return Assessment(event, "link", None, f"{meaning}; its registers are not in the line", CATALOG)
    place = "" if error.link is None else f", link {error.link}"
    severity = "fatal" if error.fatal else "not fatal"
    injected = ", injected by a test" if error.injected else ""
    words = f"NVLink: {error.unit}{place}, {severity}, subcode {error.subcode}, status {error.status:#x}{injected}"
    return Assessment(event, "link", error.action, words, error.source, error.hint)


def _nvlink(event: KernelEvent, meaning: str) -> Assessment:
    """Xid 74: the registers tell what can be ignored (catalog, WORKFLOW_NVLINK_ERR)."""
    source = f"{CATALOG}: WORKFLOW_NVLINK_ERR"
    reset = f"{source} for the registers; chosen here: a fatal error of a link needs a reset first"
    found = _REGISTERS.search(event.detail)
    if found is None:
        return Assessment(event, "link", Action.RESET, meaning, f"{reset}; the line has no registers")
    registers = [int(one, 16) for one in found[2].split(",")]
    words = f"NVLink error on link {found[1]}"
    if any(registers) and not any(bits & ~_HARMLESS_74.get(place, 0) for place, bits in enumerate(registers)):
        return Assessment(event, "link", Action.KEEP, f"{words}, with bits that the catalog ignores", source)
    return Assessment(
        event,
        "link",
        Action.RESET,
        words,
        reset,
        "seating and connections of this link; then the vendor's diagnosis",
    )


def _memory_hint(event: KernelEvent) -> str:
    if event.code in _REMAPS:
        return "`runbook show gpu-memory-ecc`: pending and failed remaps"
    if event.code in _UNCORRECTABLE:
        sram = event.code == _IN_SRAM or "SRAM" in event.detail
        return (
            "SRAM: read whether the SRAM threshold is exceeded (`nvidia-smi -q -d ECC`)"
            if sram
            else "`runbook show gpu-memory-ecc`: whether a remap is pending or failed"
        )
    return ""
