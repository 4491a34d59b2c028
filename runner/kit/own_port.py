"""A port for a rendezvous of our own ranks, which other programs do not get by chance."""

import contextlib
import random
import socket
from pathlib import Path

from runner.base.errors import RunbookError

_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_GIVEN_FROM, _FIRST, _RANGE, _TRIES = 32_768, 1_024, 12_000, 1_000


def own_port() -> int:
    """A free port of 127.0.0.1, below the range from which the kernel gives ports to connections, if there is room.

    A port in that range may be free now and in use by another program seconds later, when rank 0 listens.

    Raises:
        RunbookError: no such port is free.
    """
    end = _GIVEN_FROM
    with contextlib.suppress(OSError, ValueError, IndexError):
        end = max(int(_GIVEN.read_text(encoding="ascii").split()[0]), _FIRST + _RANGE)
    for port in random.SystemRandom().sample(range(end - _RANGE, end), _TRIES):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RunbookError(f"no port of 127.0.0.1 from {end - _RANGE} to {end - 1} is free")
