"""A control group of its own with a memory limit, for one process."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.kit.own_group import OwnGroup, own_group
from runner.node.host.cgroups import parse_counters


@dataclass(frozen=True)
class ChildGroup:
    """The group, and how many of its processes the kernel killed for memory."""

    group: OwnGroup

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.group.folder

    def kills(self) -> int:
        """Processes that the kernel killed since the group was made."""
        name = "memory.oom_control" if self.group.version == 1 else "memory.events"
        return parse_counters((self.folder / name).read_text(encoding="ascii")).get("oom_kill", 0)


@contextlib.contextmanager
def child_group(limit: int) -> Iterator[ChildGroup]:
    """Make the group; remove it afterwards.

    Args:
        limit: bytes of memory; swap is not given.

    Raises:
        NotApplicableError: no such group can be made here.
    """
    with own_group("memory") as group:
        first = group.version == 1
        group.limit("memory.limit_in_bytes" if first else "memory.max", str(limit))
        # Kernels may account no swap.
        for name, value in (("memory.memsw.limit_in_bytes", str(limit)), ("memory.swap.max", "0")):
            with contextlib.suppress(OSError):
                if (group.folder / name).exists():
                    (group.folder / name).write_text(value, encoding="ascii")
        yield ChildGroup(group)
