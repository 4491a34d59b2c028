"""Reads the configuration space of a PCI function as far as ACS needs it. Pure.

PCI Express Base Specification, section 7.7.11: the ACS extended capability has the id 0x000d, and its control register
is at offset 6. Extended capabilities begin at 256; the kernel shows them to root only.
"""

_FIRST, _HEADER, _ACS, _CONTROL = 256, 4, 0x000D, 6
_MOST = 64
REQUEST_REDIRECT, COMPLETION_REDIRECT, DIRECT_TRANSLATED = 0x04, 0x08, 0x40


def access_control(config: bytes) -> int | None:
    """The ACS control register; None if it cannot be seen, or the function has none.

    Args:
        config: the file `config` of /sys/bus/pci/devices, of 64, 256 or 4,096 bytes.
    """
    at, seen = _FIRST, 0
    while _FIRST <= at <= len(config) - _HEADER - _CONTROL and seen < _MOST:
        header = int.from_bytes(config[at : at + _HEADER], "little")
        if header & 0xFFFF == _ACS:
            return int.from_bytes(config[at + _CONTROL : at + _CONTROL + 2], "little")
        at, seen = header >> 20, seen + 1
    return None
