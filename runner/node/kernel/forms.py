"""The forms of kernel messages other than Xids that tell of faults of a node for large models. Pure.

Sources: Linux drivers/pci/pcie/aer.c (both wordings, before and since 6.9), drivers/pci/pci.c (link bandwidth),
drivers/net/ethernet/mellanox/mlx5/core/{events,health,cmd}.c, mm/oom_kill.c, fs/file_table.c, kernel/hung_task.c (both
wordings, before and since 73d40c42f6 of 2026), drivers/edac/edac_mc.c, arch/x86/kernel/cpu/mce,
drivers/firmware/efi/cper.c; NVIDIA/open-gpu-kernel-modules for `NVRM: …`; leptonai/gpud for knvlink and SXid.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

_PCI = r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-7])?"


class About(StrEnum):
    """What an event matters to; an event may matter to several."""

    GPU = "gpu"
    MEMORY = "memory"
    LINKS = "links"
    PCIE = "pcie"
    NETWORK = "network"
    HOST_MEMORY = "host-memory"
    DRIVER = "driver"


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        kind: of the event.
        needle: every such line contains it.
        pattern: matched at the beginning of the text; groups `device`, `pid`, `program`, `detail`.
        about: what it matters to.
    """

    kind: str
    needle: str
    pattern: re.Pattern[str]
    about: frozenset[About]


def _form(kind: str, needle: str, pattern: str, *about: About) -> Form:
    return Form(kind, needle, re.compile(pattern), frozenset(about))


_AER = rf"\S{{1,40}} {_PCI}: AER: (?:Multiple )?"
_RECEIVED = rf" error (?:message )?received(?: from|:) (?:id=[0-9a-f]{{4}}|(?P<device>{_PCI}))"
_BUS_ERROR = rf"(?:\S{{1,40}} )?(?P<device>{_PCI}): (?:AER: )?PCIe Bus Error: severity="
_MLX5 = rf"mlx5_core (?P<device>{_PCI})(?: (?P<detail>[^\s:]{{1,32}}))?: "
_MLX5_HERE = (
    rf"mlx5_core (?P<device>{_PCI})(?: [^\s:]{{1,32}})?: (?:\w{{1,60}}:\d{{1,6}}:\(pid \d{{1,10}}\): )?"
)
FORMS = (
    _form("boot", "Linux version ", r"Linux version \d"),
    _form(
        "gpu-lost",
        "fallen off the bus",
        rf"NVRM: GPU (?:at )?(?:PCI:)?(?P<device>{_PCI}):? (?:GPU )?has fallen off",
        About.GPU,
        About.PCIE,
    ),
    _form(
        "gpu-init-failed",
        "RmInitAdapter failed!",
        rf"NVRM: (?:GPU[ -]?(?P<device>{_PCI}): |GPU\d{{1,3}} )?RmInitAdapter failed!"
        r"(?: \((?P<detail>[^)]{1,40})\))?",
        About.GPU,
        About.DRIVER,
    ),
    _form(
        "reboot-demanded",
        "requiring os reboot",
        r"NVRM: (?P<detail>\w{1,60}: uvm encountered global fatal error \w{1,20}), requiring os reboot",
        About.GPU,
        About.DRIVER,
    ),
    _form(
        "nvlink-discovery-stuck",
        "ostRxDet",
        r"NVRM: (?:GPU\d{1,3} )?knvlink\w{1,60}: "
        r"(?P<detail>Getting peer\d{1,4}(?:'s)? postRxDetLinkMask failed|Failed to update Rx Detect Link mask)",
        About.GPU,
        About.LINKS,
    ),
    _form("driver-mismatch", "API mismatch", r"NVRM: API mismatch: (?P<detail>.{0,200})", About.DRIVER),
    _form("aer-corrected", "AER: ", _AER + r"Correct(?:ed|able)" + _RECEIVED, About.PCIE),
    _form("aer-corrected", "PCIe Bus Error", _BUS_ERROR + r"Correct", About.PCIE),
    _form("aer-fatal", "AER: ", _AER + r"Uncorrect(?:ed|able) \(Fatal\)" + _RECEIVED, About.PCIE),
    _form("aer-fatal", "PCIe Bus Error", _BUS_ERROR + r"Uncorrect(?:ed|able) \(Fatal\)", About.PCIE),
    _form("aer-uncorrected", "AER: ", _AER + r"Uncorrect(?:ed|able) \(Non-Fatal\)" + _RECEIVED, About.PCIE),
    _form(
        "aer-uncorrected", "PCIe Bus Error", _BUS_ERROR + r"Uncorrect(?:ed|able) \(Non-Fatal\)", About.PCIE
    ),
    _form(
        "pcie-limited",
        "available PCIe bandwidth, limited by",
        rf"(?:\S{{1,40}} )?(?P<device>{_PCI}): "
        r"(?P<detail>.{1,40} available PCIe bandwidth, limited by .{1,160})",
        About.PCIE,
    ),
    _form(
        "nic-module-error",
        "Port module event[error]",
        _MLX5_HERE + r"Port module event\[error\]: (?P<detail>.{1,120})",
        About.NETWORK,
    ),
    _form(
        "nic-module-error",
        "Port module event[error]",
        r"mlx5_port_module_event:\d{1,6}:\(pid \d{1,10}\): Port module event\[error\]: (?P<detail>.{1,120})",
        About.NETWORK,
    ),
    _form(
        "nic-unplugged",
        "Cable unplugged",
        _MLX5_HERE + r"Port module event: (?P<detail>module \d{1,3}, Cable unplugged)",
        About.NETWORK,
    ),
    _form(
        "nic-power",
        "insufficient power",
        _MLX5_HERE + r"Detected insufficient power on the PCIe slot(?: \((?P<detail>\d{1,4}W)\))?",
        About.NETWORK,
        About.PCIE,
    ),
    _form(
        "nic-firmware",
        "mlx5_core",
        _MLX5_HERE + r"(?P<detail>device's health compromised.{0,80}|Fatal error \d{1,6} detected.{0,80}"
        r"|\w{1,40}\(0x[0-9a-f]{1,8}\) timeout\. Will cause a leak of a command resource)",
        About.NETWORK,
    ),
    _form("nic-link-down", "ink down", _MLX5 + r"Link down", About.NETWORK),
    _form("nic-link-up", "ink up", _MLX5 + r"Link up", About.NETWORK),
    _form(
        "peer-memory",
        "p2p_free_callback",
        r"nvidia[-_]peermem (?P<detail>nv_get_p2p_free_callback:\d{1,6}.{0,160})",
        About.NETWORK,
    ),
    _form(
        "oom",
        "oom-kill:constraint=",
        r"oom-kill:constraint=(?P<detail>CONSTRAINT_\w{1,20}),.{0,2000}?,task=(?P<program>[^,]{1,64}),"
        r"pid=(?P<pid>\d{1,10})",
        About.HOST_MEMORY,
    ),
    _form(
        "oom",
        "illed process",
        r"(?P<detail>Memory cgroup out of memory|Out of memory)(?: \([^)]{1,40}\))?: "
        r"Killed process (?P<pid>\d{1,10}) \((?P<program>[^)]{1,64})\)",
        About.HOST_MEMORY,
    ),
    _form(
        "file-max", "file-max limit", r"VFS: file-max limit (?P<detail>\d{1,20}) reached", About.HOST_MEMORY
    ),
    _form(
        "host-memory-uncorrected",
        "EDAC",
        r"EDAC MC\d{1,3}: (?P<detail>\d{1,6} UE .{0,160})",
        About.HOST_MEMORY,
    ),
    _form(
        "host-memory-corrected",
        "EDAC",
        r"EDAC MC\d{1,3}: (?P<detail>\d{1,6} CE .{0,160})",
        About.HOST_MEMORY,
    ),
    _form(
        "host-memory-uncorrected",
        "ncorrected hardware memory error",
        r"mce: (?P<detail>Uncorrected hardware memory error.{0,120})",
        About.HOST_MEMORY,
    ),
    _form(
        "host-memory-uncorrected",
        "Machine Check Exception",
        r"mce: \[Hardware Error\]: (?P<detail>CPU \d{1,5}: Machine Check Exception.{0,120})",
        About.HOST_MEMORY,
    ),
    _form(
        "host-memory-uncorrected",
        "event severity",
        r"(?:\{\d{1,9}\})?\[Hardware Error\]: +(?P<detail>event severity: fatal)",
        About.HOST_MEMORY,
    ),
    # The part (memory, processor, PCIe) is in the lines that follow; EDAC and AER report memory and PCIe on their own.
    _form(
        "firmware-error",
        "event severity",
        r"(?:\{\d{1,9}\})?\[Hardware Error\]: +(?P<detail>event severity: recoverable)",
        About.HOST_MEMORY,
        About.PCIE,
    ),
    _form(
        "host-memory-corrected",
        "event severity",
        r"(?:\{\d{1,9}\})?\[Hardware Error\]: +(?P<detail>event severity: corrected)",
        About.HOST_MEMORY,
    ),
    _form(
        "hung-task",
        "for more than",
        r"INFO: task (?P<program>.{1,64}):(?P<pid>\d{1,10}) blocked (?:in I/O wait )?for more than "
        r"(?P<detail>\d{1,9} seconds)",
        About.DRIVER,
    ),
)
