"""What each NCCL setting does to a job. Pure; where settings come from is `sources`.

NCCL reads numbers with C's strtoll (base 0, so `0x1` and `1abc` are 1 and `yes` is 0) and names of levels letter by
letter (`nvl` is none). Its manual asks that settings outside its "System configuration" part be removed once the
problem they worked round is solved.
"""

import difflib
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from runner.probes.nccl.names import RENAMED, SYSTEM, TUNING
from runner.remedy import Remedy, is_plain

_LONGEST_DECIMAL = 20


class Judgement(StrEnum):
    """What a setting does to a job on the given number of nodes."""

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
        """It makes a job slow, or does not do what whoever set it believes."""
        return self in {Judgement.HARMFUL, Judgement.MISSPELT}


class Origin(StrEnum):
    """What kind of place a setting stands in; it decides how the setting is undone."""

    ENVIRONMENT = "environment"
    FILE = "file"
    UNIT = "unit"
    PROCESS = "process"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        source: the place it stands in.
        shadowed: an earlier source sets it too, and wins.
        dangling: it names a file that cannot be read.
        line: of a file, from 1; None where it stands in none.
    """

    name: str
    value: str
    source: str
    origin: Origin = Origin.ENVIRONMENT
    shadowed: bool = False
    dangling: bool = False
    line: int | None = None

    @property
    def undo(self) -> Remedy:
        """What takes it away: a line for this shell where it stands in its environment, else what to do by hand."""
        match self.origin:
            case Origin.ENVIRONMENT:
                return Remedy.unset(self.name)
            case Origin.FILE:
                return self._out_of_file()
            case Origin.UNIT:
                return Remedy.by_hand(
                    "take {} out of {}, then systemctl daemon-reload and restart the unit",
                    self.name,
                    self.source,
                )
            case Origin.PROCESS:
                kind, _, number = self.source.partition(" ")
                return Remedy.by_hand(
                    "restart {} {} without {}: it keeps what it was started with", kind, number, self.name
                )

    def _out_of_file(self) -> Remedy:
        # What [[:space:]] is to sed; Python takes more for a space.
        name = self.name.strip(string.whitespace)
        # In a pattern of sed's, a name that is not plain may end the pattern and begin a command.
        if is_plain(name) and self.source.isprintable():
            return Remedy.by_hand("sed -i {} -- {}", rf"/^[[:space:]]*{name}[[:space:]]*=/d", self.source)
        if self.line is None:
            return Remedy.by_hand("take the line that sets {} out of {}", self.name, self.source)
        return Remedy.by_hand("take line {} out of {}: it sets {}", str(self.line), self.source, self.name)


@dataclass(frozen=True)
class Finding:
    """A setting with what it does here."""

    setting: Setting
    judgement: Judgement
    why: str


_Rule = Callable[[str, int], tuple[Judgement, str]]
_NVLS = "8xB200 all_reduce at 8 GiB is reported at 839 GB/s bus bandwidth with it, 682 without"
# Path types in NCCL's topology, nearest first.
_LEVELS = ("LOC", "NVL", "NVB", "C2C", "PIX", "PXB", "P2C", "PXN", "PHB", "SYS")
_NUMBER = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)")


def judge(setting: Setting, nodes: int) -> Finding:
    """Say what a setting does to a job on so many nodes."""
    if setting.shadowed:
        return Finding(setting, Judgement.HARMLESS, "without effect: an earlier source sets it too, and wins")
    if setting.dangling:
        return Finding(
            setting,
            Judgement.MISSPELT,
            "names a file that cannot be read; NCCL passes over it without a word",
        )
    if setting.name != setting.name.strip():
        plain = (
            f"NCCL takes the spaces as part of the name, so it does nothing; write {setting.name.strip()}="
        )
        return Finding(setting, Judgement.MISSPELT, plain)
    return Finding(setting, *_judge(setting.name, setting.value, nodes))


def _judge(name: str, value: str, nodes: int) -> tuple[Judgement, str]:
    if name in _RULES:
        return _RULES[name](value, nodes)
    if name in RENAMED:
        return Judgement.LEGACY, f"an old name; today {RENAMED[name]}"
    if name in SYSTEM:
        return Judgement.SYSTEM, "describes this system; may stay if it is right"
    if name in TUNING:
        return (
            Judgement.TUNING,
            "overrides what NCCL would choose; remove it unless a measurement asks for it",
        )
    close = difflib.get_close_matches(name, (*_RULES, *SYSTEM, *TUNING), n=1, cutoff=0.85)
    if close:
        return Judgement.MISSPELT, f"NCCL does not know it, so it does nothing; did you mean {close[0]}?"
    return Judgement.UNKNOWN, "not a variable known here; it may belong to a plugin or a newer NCCL"


def number_of(value: str) -> int:
    """A value as NCCL reads it: strtoll with base 0, which takes the leading number and 0 where there is none."""
    found = _NUMBER.match(value)
    if found is None:
        return 0
    digits = found[2]
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") else 10
    # Python reads no decimal of thousands of digits; strtoll stops at 64 bits long before.
    number = int(found[1] + (digits[:_LONGEST_DECIMAL] if base == 10 else digits), base)  # noqa: PLR2004
    return max(-(2**63), min(2**63 - 1, number))


def _is_set(value: str) -> bool:
    return number_of(value) != 0


def _switch(on: tuple[Judgement, str], off: tuple[Judgement, str]) -> _Rule:
    return lambda value, _: on if _is_set(value) else off


def _default(what: str) -> tuple[Judgement, str]:
    return Judgement.DEFAULT, f"the default ({what})"


def _ib_disable(value: str, nodes: int) -> tuple[Judgement, str]:
    if not _is_set(value):
        return _default("InfiniBand and RoCE in use")
    if nodes > 1:
        return Judgement.HARMFUL, "sends all traffic between nodes over IP sockets"
    return (
        Judgement.HARMLESS,
        "nothing on one node; over several it forces IP sockets, so do not leave it in a profile",
    )


def _net(value: str, nodes: int) -> tuple[Judgement, str]:
    if value.lower() == "socket" and nodes > 1:
        return Judgement.HARMFUL, "sends all traffic between nodes over IP sockets"
    return Judgement.SYSTEM, "chooses the network between nodes; unused on one"


def _socket_ifname(value: str, nodes: int) -> tuple[Judgement, str]:
    if value.lstrip("=") == "lo" and nodes > 1:
        return Judgement.HARMFUL, "the loopback interface reaches no other node"
    return Judgement.SYSTEM, "describes this system; may stay if it is right"


def _p2p_level(value: str, nodes: int) -> tuple[Judgement, str]:
    del nodes
    if value == "LOC" or _is_legacy(value, of=0):
        return Judgement.HARMFUL, "never uses peer access, as NCCL_P2P_DISABLE=1: NVLink lies idle"
    if _is_legacy(value):
        meaning = f"legacy integer ({_integer_level(value)})"
        return Judgement.LEGACY, f"{meaning}; its meaning has changed between versions"
    if value == "NVL":
        return Judgement.DEFAULT, "what NCCL chooses by itself where GPUs have NVLink"
    if value in _LEVELS:
        return Judgement.HARMLESS, "lets peer access reach further than NVLink"
    return _no_level(value)


def _gdr_level(value: str, nodes: int) -> tuple[Judgement, str]:
    if (value == "LOC" or _is_legacy(value, of=0)) and nodes > 1:
        return Judgement.HARMFUL, "turns GPUDirect RDMA off: traffic between nodes is staged in host memory"
    if _is_legacy(value):
        meaning = f"legacy integer ({_integer_level(value)})"
        return Judgement.LEGACY, f"{meaning}; concerns GPU to NIC only, not NVLink, nothing on one node"
    if value in _LEVELS:
        return Judgement.HARMLESS, "concerns GPU to NIC only, not NVLink"
    return _no_level(value)


def _is_legacy(value: str, of: int | None = None) -> bool:
    """Whether NCCL takes a level for one of its old numbers, or for that one: its first character is a digit."""
    return value[:1].isdecimal() and value[:1].isascii() and (of is None or number_of(value) == of)


def _integer_level(value: str) -> str:
    return ("read as LOC", "read as PIX", "read as PXB", "read as PHB", "read as SYS")[
        min(number_of(value), 4)
    ]


def _no_level(value: str) -> tuple[Judgement, str]:
    close = difflib.get_close_matches(value.strip().upper(), _LEVELS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return Judgement.MISSPELT, f"not a level that NCCL reads (known are {', '.join(_LEVELS)}){hint}"


def _debug(value: str, nodes: int) -> tuple[Judgement, str]:
    del nodes
    if value.upper() in {"INFO", "TRACE"}:
        return Judgement.TUNING, "floods the log; remove it once the problem is found"
    return Judgement.HARMLESS, "prints little"


_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "NCCL_P2P_DISABLE": lambda value, _: (
            (
                Judgement.HARMFUL,
                "GPUs of one node no longer reach each other's memory: traffic leaves NVLink for the host",
            )
            if number_of(value) == 1
            else _default("peer access on")
        ),
        "NCCL_P2P_LEVEL": _p2p_level,
        "NCCL_SHM_DISABLE": _switch(
            (
                Judgement.HARMFUL,
                "where peer access is not possible, processes of one node talk over the network",
            ),
            _default("shared memory on"),
        ),
        "NCCL_NVLS_ENABLE": lambda value, _: (
            (Judgement.HARMFUL, f"turns off reduction inside the NVLink switch: {_NVLS}")
            if value and not _is_set(value)
            else _default("NVLink SHARP where the switch has it")
        ),
        "NCCL_IB_DISABLE": _ib_disable,
        "NCCL_NET": _net,
        "NCCL_SOCKET_IFNAME": _socket_ifname,
        "NCCL_NET_GDR_LEVEL": _gdr_level,
        "NCCL_DEBUG": _debug,
        "NCCL_CONF_FILE": lambda *_: (Judgement.SYSTEM, "names the user's file of settings; read here too"),
    }
)
