"""The transports that NCCL uses, from its debug log, and whether they are the expected ones. Pure but for `read_…`.

With NCCL_DEBUG=INFO, each connection is a line (`Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM`): P2P is one GPU writing
into another's memory, SHM goes through host memory, NET is the network. `NVLS comm` means that reduction inside the
NVLink switch was set up. The log is written once, when connections are made, so it does not affect a measurement.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Maximum size of a file: a log of eight ranks with 32 channels has about 100 kB.
_MOST_BYTES = 16 << 20
_CHANNEL = re.compile(
    r"NCCL INFO (?:Channel|Ring) \d+(?:/\d+)? : \d+\[[0-9a-fx]+\] -> \d+\[[0-9a-fx]+\](?: \[(?P<end>send|receive)\])?"
    r" via (?P<way>P2P|SHM|NET|COLLNET)/(?P<kind>[A-Za-z]+)"
)
_NVLS = re.compile(r"NCCL INFO NVLS comm 0x[0-9a-f]+")
_NO_NVLS = re.compile(r"NCCL INFO NVLS multicast support is not available")


@dataclass(frozen=True)
class Transport:
    """The transports of a communicator.

    Attributes:
        channels: connections by transport, such as `{"P2P/CUMEM": 48}`; a network connection counts at its sender.
        nvls: whether reduction inside the switch was set up; None if unknown.
    """

    channels: Mapping[str, int]
    nvls: bool | None

    @property
    def non_p2p_transports(self) -> tuple[str, ...]:
        """The transports that do not copy directly from GPU to GPU."""
        return tuple(way for way in self.channels if not way.startswith("P2P/"))

    def __str__(self) -> str:
        ways = ", ".join(f"{way} × {count}" for way, count in sorted(self.channels.items()))
        return ways + {True: ", NVLS", False: ", no NVLS", None: ""}[self.nvls]


def parse_log(text: str) -> Transport | None:
    """Read NCCL's log; None if no complete line of it names a transport.

    A last line without a newline is incomplete and ignored.
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
    """Variables that make every rank write its log into a folder, overriding the caller's."""
    return {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,ENV,NVLS",
        "NCCL_DEBUG_FILE": str(folder / "nccl.%p.log"),
    }


def read_transport(folder: Path) -> Transport | None:
    """The transports of all ranks that logged into a folder."""
    texts = []
    for path in sorted(folder.glob("nccl.*.log")):
        with path.open("rb") as file:
            texts.append(file.read(_MOST_BYTES).decode(errors="replace"))
    return parse_log("".join(texts))


def fault_of(transports: Mapping[str, Transport | None], nvlinked: bool) -> str | None:
    """Why the transports are a fault, or None.

    Args:
        transports: of the arms `caller` and, if present, `clean`.
        nvlinked: whether every pair of GPUs has NVLink.
    """
    caller, clean = transports.get("caller"), transports.get("clean")
    if caller is None or not caller.non_p2p_transports:
        return None
    ways = _listed(caller.non_p2p_transports)
    if clean is not None and not clean.non_p2p_transports:
        return f"in this environment NCCL uses {ways}, in a clean one {_listed(clean.channels)}"
    if nvlinked:
        return f"NCCL uses {ways} although every pair of GPUs has NVLink"
    return None


def _listed(ways: Iterable[str]) -> str:
    return " and ".join(sorted(ways))
