"""What /proc/PID/mountstats tells of NFS: requests by operation, their waiting and answering. Pure.

Of an operation the kernel counts requests, transmissions, major timeouts, bytes sent and received, and milliseconds of
waiting before the first transmission, of the answer, and of both with what is around them (net/sunrpc/stats.c).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

_DEVICE = re.compile(r"device .{1,4096}? mounted on (\S{1,4096}) with fstype (nfs4?)\b.*")
_OPERATION = re.compile(r"\s+([A-Z_]{2,40}): (\d{1,20}(?: \d{1,20}){7,8})\s*", re.ASCII)
_TRANSPORT = re.compile(r"\s+xprt:\s+(tcp|rdma)((?: \d{1,20}){5,40})\s*", re.ASCII)
# In the line of TCP: the most slots that were in use at once (xs_tcp_print_stats in net/sunrpc/xprtsock.c).
_SLOTS_AT = 10
_OPTIONS = ("vers", "rsize", "wsize", "nconnect", "max_connect", "proto", "timeo", "retrans", "hard", "soft")


@dataclass(frozen=True)
class RpcCount:
    """One operation, since the mount or between two readings; times in milliseconds, summed over requests."""

    requests: int = 0
    transmissions: int = 0
    timeouts: int = 0
    sent: int = 0
    received: int = 0
    queue_ms: int = 0
    response_ms: int = 0
    total_ms: int = 0

    def __sub__(self, before: "RpcCount") -> "RpcCount":
        return RpcCount(
            *(max(0, getattr(self, one.name) - getattr(before, one.name)) for one in fields(RpcCount))
        )

    def __add__(self, other: "RpcCount") -> "RpcCount":
        return RpcCount(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(RpcCount)))

    @property
    def queue_share(self) -> float | None:
        """Waiting before the transmission ÷ the whole time; None without requests that took time."""
        return min(1.0, self.queue_ms / self.total_ms) if self.total_ms else None

    @property
    def response_s(self) -> float | None:
        """Mean seconds from transmission to answer; None without requests."""
        return self.response_ms / self.requests / 1e3 if self.requests else None


@dataclass(frozen=True)
class NfsMount:
    """One NFS mount.

    Attributes:
        place: where it is mounted.
        options: those of `_OPTIONS` that it has, by name; a word without a value has an empty one.
        connections: transports to its server.
        slots: the most requests of one connection that were under way at once; None if not told.
        operations: counts by name, such as `WRITE`; only those with requests.
    """

    place: str
    options: Mapping[str, str]
    connections: int
    slots: int | None
    operations: Mapping[str, RpcCount]

    @property
    def total(self) -> RpcCount:
        """All operations together."""
        return sum(self.operations.values(), RpcCount())


def parse_mountstats(text: str) -> tuple[NfsMount, ...]:
    """The NFS mounts of a mountstats file, in its order; lines of another form are left out."""
    return tuple(_mount(place, lines) for place, lines in _sections(text))


def telling_mountstats(text: str) -> str:
    """The part of a mountstats file that a verdict depends on, without servers, addresses and other mounts."""
    kept = []
    for place, lines in _sections(text):
        kept.append(f"device server:/ mounted on {place} with fstype nfs statvers=1.1")
        for line in lines:
            if line.lstrip().startswith("opts:"):
                shown = ",".join(
                    name + (f"={value}" if value else "") for name, value in _options(line).items()
                )
                kept.append(f"\topts:\t{shown}")
            elif _OPERATION.fullmatch(line) or _TRANSPORT.fullmatch(line):
                kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _sections(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """The place of each NFS mount, and the lines below it."""
    place: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("device "):
            if place is not None:
                yield place, lines
            found = _DEVICE.fullmatch(line)
            place, lines = (found[1] if found else None), []
        else:
            lines.append(line)
    if place is not None:
        yield place, lines


def _mount(place: str, lines: Sequence[str]) -> NfsMount:
    operations: dict[str, RpcCount] = {}
    options: dict[str, str] = {}
    slots: list[int] = []
    connections = 0
    for line in lines:
        if line.lstrip().startswith("opts:"):
            options = _options(line)
        elif found := _TRANSPORT.fullmatch(line):
            numbers = found[2].split()
            connections += 1
            slots += [int(numbers[_SLOTS_AT])] if found[1] == "tcp" and len(numbers) > _SLOTS_AT else []
        elif found := _OPERATION.fullmatch(line):
            count = RpcCount(*map(int, found[2].split()[: len(fields(RpcCount))]))
            operations |= {found[1]: count} if count.requests else {}
    return NfsMount(place, options, connections, max(slots, default=None), operations)


def _options(line: str) -> dict[str, str]:
    words = (one.partition("=") for one in line.partition(":")[2].strip().split(","))
    return {name: value for name, _, value in words if name in _OPTIONS}
