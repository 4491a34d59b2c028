"""The effect of the value of an NCCL setting on a job. Pure.

NCCL parses numbers with C's strtoll (base 0, so `0x1` and `1abc` are 1 and `yes` is 0); level names are case-sensitive
(`nvl` is invalid).
"""

import difflib
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

_LONGEST_DECIMAL = 20


class Judgement(StrEnum):
    """The effect of a setting on a job on the given number of nodes."""

    DEFAULT = "default"
    SYSTEM = "system"
    HARMLESS = "harmless"
    TUNING = "tuning"
    LEGACY = "legacy"
    UNKNOWN = "unknown"
    MISSPELT = "misspelt"
    HARMFUL = "harmful"

    @property
    def is_fault(self) -> bool:
        """Whether it slows a job, or does not do what its author intended."""
        return self in {Judgement.HARMFUL, Judgement.MISSPELT}


_Rule = Callable[[str, int], tuple[Judgement, str]]
_NVLS = "8xB200 all_reduce at 8 GiB is reported at 838 GB/s bus bandwidth with it, 682 without"
# Path types in NCCL's topology, nearest first.
_LEVELS = ("LOC", "NVL", "NVB", "C2C", "PIX", "PXB", "P2C", "PXN", "PHB", "SYS")
_NUMBER = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)")


def number_of(value: str) -> int:
    """A value as NCCL reads it: strtoll with base 0, which takes the leading number, or 0 if there is none."""
    found = _NUMBER.match(value)
    if found is None:
        return 0
    digits = found[2]
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") else 10
    # Python refuses decimals of thousands of digits; strtoll saturates at 64 bits long before.
    number = int(found[1] + (digits[:_LONGEST_DECIMAL] if base == 10 else digits), base)  # noqa: PLR2004
    return max(-(2**63), min(2**63 - 1, number))


def _is_set(value: str) -> bool:
    return number_of(value) != 0


def _switch(on: tuple[Judgement, str], off: tuple[Judgement, str]) -> _Rule:
    return lambda value, _: on if _is_set(value) else off


def _default(what: str) -> tuple[Judgement, str]:
    return Judgement.DEFAULT, f"default ({what})"


def _ib_disable(value: str, nodes: int) -> tuple[Judgement, str]:
    if not _is_set(value):
        return _default("InfiniBand and RoCE in use")
    if nodes > 1:
        return Judgement.HARMFUL, "sends all traffic between nodes over IP sockets"
    return (
        Judgement.HARMLESS,
        "no effect on one node; on several nodes it forces IP sockets, so do not keep it in a profile",
    )


def _net(value: str, nodes: int) -> tuple[Judgement, str]:
    if value.lower() == "socket" and nodes > 1:
        return Judgement.HARMFUL, "sends all traffic between nodes over IP sockets"
    return Judgement.SYSTEM, "selects the network between nodes; not used on one node"


def _socket_ifname(value: str, nodes: int) -> tuple[Judgement, str]:
    if value.lstrip("=") == "lo" and nodes > 1:
        return Judgement.HARMFUL, "the loopback interface does not reach other nodes"
    return Judgement.SYSTEM, "describes this system; keep it if it is correct"


def _p2p_level(value: str, nodes: int) -> tuple[Judgement, str]:
    del nodes
    if value == "LOC" or _is_legacy(value, of=0):
        return Judgement.HARMFUL, "disables peer access, like NCCL_P2P_DISABLE=1, so NVLink is not used"
    if _is_legacy(value):
        meaning = f"legacy integer ({_integer_level(value)})"
        return Judgement.LEGACY, f"{meaning}; the meaning differs between versions"
    if value == "NVL":
        return Judgement.DEFAULT, "NCCL's own choice if GPUs have NVLink"
    if value in _LEVELS:
        return Judgement.HARMLESS, "allows peer access beyond NVLink"
    return _no_level(value)


def _gdr_level(value: str, nodes: int) -> tuple[Judgement, str]:
    if (value == "LOC" or _is_legacy(value, of=0)) and nodes > 1:
        return (
            Judgement.HARMFUL,
            "turns GPUDirect RDMA off, so traffic between nodes is staged in host memory",
        )
    if _is_legacy(value):
        meaning = f"legacy integer ({_integer_level(value)})"
        return Judgement.LEGACY, f"{meaning}; affects only GPU to NIC, not NVLink; no effect on one node"
    if value in _LEVELS:
        return Judgement.HARMLESS, "affects only GPU to NIC, not NVLink"
    return _no_level(value)


def _is_legacy(value: str, of: int | None = None) -> bool:
    """Whether NCCL reads a level as a legacy integer, or as that one: its first character is a digit."""
    return value[:1].isdecimal() and value[:1].isascii() and (of is None or number_of(value) == of)


def _integer_level(value: str) -> str:
    return ("read as LOC", "read as PIX", "read as PXB", "read as PHB", "read as SYS")[
        min(number_of(value), 4)
    ]


def _no_level(value: str) -> tuple[Judgement, str]:
    close = difflib.get_close_matches(value.strip().upper(), _LEVELS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return Judgement.MISSPELT, f"not a valid level (valid: {', '.join(_LEVELS)}){hint}"


def _debug(value: str, nodes: int) -> tuple[Judgement, str]:
    del nodes
    if value.upper() in {"INFO", "TRACE"}:
        return Judgement.TUNING, "floods the log; remove it after debugging"
    return Judgement.HARMLESS, "prints few lines"


RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "NCCL_P2P_DISABLE": lambda value, _: (
            (
                Judgement.HARMFUL,
                "without peer access, traffic between the GPUs of a node goes through host memory, not NVLink",
            )
            if number_of(value) == 1
            else _default("peer access on")
        ),
        "NCCL_P2P_LEVEL": _p2p_level,
        "NCCL_SHM_DISABLE": _switch(
            (
                Judgement.HARMFUL,
                "without peer access, processes on one node communicate over the network",
            ),
            _default("shared memory on"),
        ),
        "NCCL_NVLS_ENABLE": lambda value, _: (
            (Judgement.HARMFUL, f"turns off reduction inside the NVLink switch: {_NVLS}")
            if value and not _is_set(value)
            else _default("NVLink SHARP if the switch supports it")
        ),
        "NCCL_IB_DISABLE": _ib_disable,
        "NCCL_NET": _net,
        "NCCL_SOCKET_IFNAME": _socket_ifname,
        "NCCL_NET_GDR_LEVEL": _gdr_level,
        "NCCL_DEBUG": _debug,
        "NCCL_CONF_FILE": lambda *_: (
            Judgement.SYSTEM,
            "names the user's configuration file, which is checked too",
        ),
    }
)
