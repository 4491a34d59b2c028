"""What steers NCCL: where settings come from and what each of them does. Pure but for `read_settings`.

NCCL takes a setting from the process's environment, else from the user's file ($NCCL_CONF_FILE, else ~/.nccl.conf),
else from /etc/nccl.conf: a file never overrides what is set before it (NCCL's initEnv and its manual,
"Environment Variables"). The manual asks that settings outside its "System configuration" part be removed once the
problem they worked round is solved.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from runner.errors import InputError
from runner.probes.nccl_names import RENAMED, SYSTEM, TUNING

_MOST_BYTES = 1 << 20


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


@dataclass(frozen=True)
class Setting:
    """One setting: `source` is `environment` or the file it stands in; `shadowed` where an earlier source wins."""

    name: str
    value: str
    source: str
    shadowed: bool = False

    @property
    def undo(self) -> str:
        """The shell line that takes it away."""
        if self.source == "environment":
            return f"unset {shlex.quote(self.name)}"
        return f"sed -i {shlex.quote(rf'/^[[:space:]]*{re.escape(self.name)}[[:space:]]*=/d')} {_path(self.source)}"


@dataclass(frozen=True)
class Finding:
    """A setting with what it does here."""

    setting: Setting
    judgement: Judgement
    why: str


_Rule = Callable[[str, int], tuple[Judgement, str]]
_NVLS = "8xB200 all_reduce at 8 GiB is reported at 839 GB/s bus bandwidth with it, 682 without"
_LEVELS = ("LOC", "NVL", "PIX", "PXB", "PXN", "PHB", "SYS")


def parse_conf(text: str, source: str) -> list[Setting]:
    """Read the text of an NCCL file: `NAME=value` lines; `#` begins a comment, other lines say nothing to NCCL."""
    found = []
    for line in text.splitlines():
        name, equals, value = line.partition("#")[0].partition("=")
        if equals and name.strip().startswith("NCCL_"):
            found.append(Setting(name.strip(), value.strip(), source))
    return found


def read_settings(
    environment: Mapping[str, str], home: Path, system: Path = Path("/etc/nccl.conf")
) -> list[Setting]:
    """Every NCCL setting that a process with this environment would see, the winning one first.

    Raises:
        InputError: $NCCL_CONF_FILE names what cannot be read.
    """
    found = [
        Setting(name, value, "environment")
        for name, value in sorted(environment.items())
        if name.startswith("NCCL_")
    ]
    named = environment.get("NCCL_CONF_FILE")
    user = Path(named).expanduser() if named else home / ".nccl.conf"
    for path, must_exist in ((user, bool(named)), (system, False)):
        shown = f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
        found += parse_conf(_read(path, must_exist=must_exist), shown)
    seen: set[str] = set()
    settings = []
    for setting in found:
        settings.append(Setting(setting.name, setting.value, setting.source, shadowed=setting.name in seen))
        seen.add(setting.name)
    return settings


def judge(setting: Setting, nodes: int) -> Finding:
    """Say what a setting does to a job on so many nodes."""
    if setting.shadowed:
        return Finding(setting, Judgement.HARMLESS, "without effect: an earlier source sets it too, and wins")
    return Finding(setting, *_judge(setting.name, setting.value.strip(), nodes))


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


def _is_set(value: str) -> bool:
    """NCCL's reading of a switch: a whole number other than zero (strtoll with base 0); other text is ignored."""
    try:
        return int(value, 0) != 0
    except ValueError:
        return False


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
    if value.upper() == "LOC" or value == "0":
        return Judgement.HARMFUL, "never uses peer access, as NCCL_P2P_DISABLE=1: NVLink lies idle"
    if value.isdigit():
        return (
            Judgement.LEGACY,
            f"legacy integer ({_integer_level(value)}); its meaning has changed between versions",
        )
    if value.upper() == "NVL":
        return Judgement.DEFAULT, "what NCCL chooses by itself where GPUs have NVLink"
    if value.upper() in _LEVELS:
        return Judgement.HARMLESS, "lets peer access reach further than NVLink"
    return Judgement.MISSPELT, f"not a level that NCCL reads; known are {', '.join(_LEVELS)}"


def _gdr_level(value: str, nodes: int) -> tuple[Judgement, str]:
    if (value.upper() == "LOC" or value == "0") and nodes > 1:
        return Judgement.HARMFUL, "turns GPUDirect RDMA off: traffic between nodes is staged in host memory"
    if value.isdigit():
        what = _integer_level(value)
        return (
            Judgement.LEGACY,
            f"legacy integer ({what}); concerns GPU to NIC only, not NVLink, nothing on one node",
        )
    if value.upper() in _LEVELS:
        return Judgement.HARMLESS, "concerns GPU to NIC only, not NVLink"
    return Judgement.MISSPELT, f"not a level that NCCL reads; known are {', '.join(_LEVELS)}"


def _integer_level(value: str) -> str:
    return ("read as LOC", "read as PIX", "read as PXB", "read as PHB", "read as SYS")[min(int(value), 4)]


def _debug(value: str, nodes: int) -> tuple[Judgement, str]:
    del nodes
    if value.upper() in {"INFO", "TRACE"}:
        return Judgement.TUNING, "floods the log; remove it once the problem is found"
    return Judgement.HARMLESS, "prints little"


_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "NCCL_P2P_DISABLE": _switch(
            (
                Judgement.HARMFUL,
                "GPUs of one node no longer reach each other's memory: traffic leaves NVLink for the host",
            ),
            _default("peer access on"),
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
            if value == "0"
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


def _path(shown: str) -> str:
    # A quoted tilde would not be expanded by the shell.
    return "~/" + shlex.quote(shown[2:]) if shown.startswith("~/") else shlex.quote(shown)


def _read(path: Path, *, must_exist: bool) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except FileNotFoundError as error:
        if must_exist:
            raise InputError(
                f"NCCL_CONF_FILE names {path}, which is not there; unset it or correct it"
            ) from error
        return ""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
