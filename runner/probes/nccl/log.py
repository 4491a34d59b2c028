"""Which way NCCL sends data, read from its own debug log, and whether that is the way it should. Pure but for `read_…`.

With NCCL_DEBUG=INFO each connection is a line (`Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM`): P2P is one GPU writing
into another's memory, SHM a detour through the host's memory, NET the network. `NVLS comm` says that reduction inside
the NVLink switch was set up. The log is written once, as connections are made, so it costs a measurement nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Of a file: a log of eight ranks with 32 channels is some 100 kB.
_MOST_BYTES = 16 << 20
_CHANNEL = re.compile(
    r"NCCL INFO (?:Channel|Ring) \d+(?:/\d+)? : \d+\[[0-9a-fx]+\] -> \d+\[[0-9a-fx]+\](?: \[(?P<end>send|receive)\])?"
    r" via (?P<way>P2P|SHM|NET|COLLNET)/(?P<kind>[A-Za-z]+)"
)
_NVLS = re.compile(r"NCCL INFO NVLS comm 0x[0-9a-f]+")
_NO_NVLS = re.compile(r"NCCL INFO NVLS multicast support is not available")


@dataclass(frozen=True)
class Transport:
    """What a communicator was built on.

    Attributes:
        channels: connections by way and kind, as `{"P2P/CUMEM": 48}`; a network connection counts at its sender.
        nvls: whether reduction inside the switch was set up; None where the log does not say.
    """

    channels: Mapping[str, int]
    nvls: bool | None

    @property
    def detours(self) -> tuple[str, ...]:
        """The ways that do not go straight from GPU to GPU."""
        return tuple(way for way in self.channels if not way.startswith("P2P/"))

    def __str__(self) -> str:
        ways = ", ".join(f"{way} × {count}" for way, count in sorted(self.channels.items()))
        return ways + {True: ", NVLS", False: ", no NVLS", None: ""}[self.nvls]


def parse_log(text: str) -> Transport | None:
    """Read NCCL's log; None where no whole line of it names a way.

    A last line without its end is cut off, and not read.
    """
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    channels: Counter[str] = Counter()
    for line in whole:
        found = _CHANNEL.search(line)
        if found and found["end"] != "receive":
            channels[f"{found['way']}/{found['kind']}"] += 1
    if not channels:
        return None
    nvls = True if any(map(_NVLS.search, whole)) else False if any(map(_NO_NVLS.search, whole)) else None
    return Transport(dict(channels), nvls)


def logging_environment(folder: Path) -> dict[str, str]:
    """Variables with which every rank writes its log into a folder, whatever the caller had set."""
    return {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,ENV,NVLS",
        "NCCL_DEBUG_FILE": str(folder / "nccl.%p.log"),
    }


def read_transport(folder: Path) -> Transport | None:
    """The transport of all ranks that logged into a folder."""
    texts = []
    for path in sorted(folder.glob("nccl.*.log")):
        with path.open("rb") as file:
            texts.append(file.read(_MOST_BYTES).decode(errors="replace"))
    return parse_log("".join(texts))


def fault_of(transports: Mapping[str, Transport | None], nvlinked: bool) -> str | None:
    """Why the way is the fault, or None.

    Args:
        transports: of the arms `caller` and, where there is one, `clean`.
        nvlinked: whether every pair of GPUs has NVLink.
    """
    caller, clean = transports.get("caller"), transports.get("clean")
    if caller is None or not caller.detours:
        return None
    ways = _listed(caller.detours)
    if clean is not None and not clean.detours:
        return f"this environment sends NCCL via {ways}, a clean one via {_listed(clean.channels)}"
    if nvlinked:
        return f"NCCL goes via {ways} although every pair of GPUs has NVLink"
    return None


def _listed(ways: Iterable[str]) -> str:
    return " and ".join(sorted(ways))
