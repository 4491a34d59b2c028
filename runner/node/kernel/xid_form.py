"""The form of an Xid in the kernel log: code, GPU, process. Pure.

`NVRM: Xid (PCI:0000:3b:00): 79, pid=4021, name=python3, …` (`krcReportXid_IMPL` in NVIDIA/open-gpu-kernel-modules).
Older drivers write no `PCI:`, MIG adds ` GPU-I:05` and ` GPU-CI:02`, and a process that is not known is `'<unknown>'`.
"""

import re
from dataclasses import dataclass

_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]{4,20})((?: [^)]{0,40})?)\): (\d{1,6})\b,? ?(.*)", re.DOTALL
)
_PROCESS = re.compile(
    r"pid=(?:'<unknown>'|<unknown>|(\d{1,10})),? ?(?:name=(?:'?<unknown>'?|([^,]{0,64})),? ?)?"
)
_INSTANCE = re.compile(r"GPU-I:(\d{1,3})")
_ADDRESS = re.compile(r"(?:([0-9A-Fa-f]{4}|[0-9A-Fa-f]{8}):)?([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})(?:\.([0-7]))?")


@dataclass(frozen=True)
class XidText:
    """One Xid.

    Attributes:
        code: its number.
        gpu: PCI address as the kernel writes it, `0000:3b:00.0`; None if it has another form.
        instance: GPU instance under MIG.
        pid: of the process; None if unknown.
        program: its name; None if unknown.
        text: what follows.
    """

    code: int
    gpu: str | None
    instance: int | None
    pid: int | None
    program: str | None
    text: str


def xid_text(text: str) -> XidText | None:
    """Read the text of a kernel message; None if it is no Xid."""
    found = _XID.match(text)
    if found is None:
        return None
    rest, pid, program = found[4], None, None
    if process := _PROCESS.match(rest):
        rest = rest[process.end() :]
        pid = int(process[1]) if process[1] else None
        program = process[2] or None
    instance = _INSTANCE.search(found[2])
    return XidText(
        code=int(found[3]),
        gpu=pci_address(found[1]),
        instance=int(instance[1]) if instance else None,
        pid=pid,
        program=program,
        text=rest,
    )


def pci_address(text: str) -> str | None:
    """`0000:3b:00.0` from `3b:00`, `0000:3b:00`, `00000000:3B:00.0`; None if it is no address."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return None
    domain, bus, device, function = (int(part or "0", 16) for part in found.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function}"
