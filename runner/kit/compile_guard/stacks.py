"""Slow or stuck: two observations of a compile at different times. Pure.

A compile that keeps a CPU busy may be healthy. Between two observations a healthy one makes progress: its cache grows,
compiler processes start and end, or its innermost frames change. A stuck one does none of these.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["slow", "stuck-busy", "stuck-idle"]

# Below this share of one core, a process counts as waiting.
BUSY_SHARE = 0.1
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'^  File "([^"]*)", line \d+ in (.*)$')


@dataclass(frozen=True)
class Observation:
    """One observation of a compile.

    Attributes:
        at_s: seconds since the compile began.
        cpu_s: CPU seconds of the process tree so far.
        cache_bytes: size of the compile cache.
        frames: functions on the compiling thread's stack, innermost first; empty if there was no dump.
        others: the tree's other processes as (pid, name), such as C++ compilers and assemblers. Not Inductor's own
            compile workers: they start and end with the pool, whether or not the compile makes progress.
    """

    at_s: float
    cpu_s: float
    cache_bytes: int
    frames: tuple[str, ...]
    others: frozenset[tuple[int, str]]


def slow_or_stuck(first: Observation, second: Observation) -> Verdict:
    """Compare two observations: `slow` (it makes progress), `stuck-busy` or `stuck-idle`."""
    if second.cache_bytes != first.cache_bytes or second.others != first.others:
        return "slow"
    if second.frames != first.frames:
        return "slow"
    share = (second.cpu_s - first.cpu_s) / max(second.at_s - first.at_s, 1e-9)
    return "stuck-busy" if share >= BUSY_SHARE else "stuck-idle"


def in_words(verdict: Verdict | None, where: str | None = None) -> str:
    """A verdict, with the innermost frame if known, as the second half of "did not finish, …"."""
    told = {
        "slow": "slow: it still made progress",
        "stuck-busy": "stuck: busy CPU, no progress",
        "stuck-idle": "stuck: idle CPU, no progress",
        None: "slow or stuck unknown",
    }[verdict]
    return f"{told} (in {where})" if where else told


def frames_of(dump: str, thread: int | None) -> tuple[str, ...]:
    """The functions of one thread in a faulthandler dump, innermost first, as `file:function`.

    Line numbers are omitted: a stuck loop also moves between its lines.

    Args:
        dump: what faulthandler wrote, all threads of one dump.
        thread: the thread's identifier; None gives an empty stack.
    """
    frames: list[str] = []
    ours = False
    for line in dump.splitlines():
        heading = _THREAD.match(line)
        if heading:
            ours = thread is not None and int(heading[1], 16) == thread
        frame = _FRAME.match(line)
        if ours and frame:
            frames.append(f"{frame[1]}:{frame[2]}")
    return tuple(frames)


def innermost_frame(frames: Sequence[str]) -> str | None:
    """The innermost frame as `file:function`, the file shortened to its last two parts; None without frames."""
    if not frames:
        return None
    path, _, function = frames[0].rpartition(":")
    return f"{'/'.join(path.split('/')[-2:])}:{function}"
