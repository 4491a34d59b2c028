"""Shares the guard's time among the rungs of its ladder. Pure."""

# Two observations of a compile tell slow from stuck; that needs at least this much time.
LEAST_S = 2.0
# Importing torch, building a model and starting the compile workers is not part of the compile, but takes time on a
# loaded host.
START_S = 120.0


def allotment(left_s: float, start_s: float, later: int) -> float:
    """Seconds for the compile of a rung that begins now.

    A rung leaves half of the remaining time to later rungs if one of them could then start and compile; else it gets
    all. It always gets at least `LEAST_S`.

    Args:
        left_s: seconds until the guard's deadline; for the first rung, whose start does not count, the whole deadline.
        start_s: seconds that this rung's child took to start; the next is assumed to take the same.
        later: how many rungs after this one compile.
    """
    half = left_s / 2
    if later and half >= start_s + LEAST_S:
        return half
    return max(left_s, LEAST_S)


def worth_trying(left_s: float, start_s: float) -> bool:
    """Whether a child started now would still have time to compile; `start_s`: start time of the last one."""
    return left_s >= start_s + LEAST_S


def start_limit(left_s: float) -> float:
    """Seconds within which a child must begin to compile: until the deadline, at least `START_S`."""
    return max(left_s, START_S)
