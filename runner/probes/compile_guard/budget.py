"""How the guard's time is shared among the rungs of its ladder. Pure."""

# A compile is looked at twice to tell slow from stuck; less time than this tells nothing.
LEAST_S = 2.0
# Importing torch and building a model is no compile; on a loaded host it takes a while all the same.
START_S = 60.0


def allotment(left_s: float, start_s: float, later: int) -> float:
    """Seconds for the compile of a rung that begins now.

    A rung leaves half of what is left to those after it, if one of them could then start and compile for a while; else
    it gets all. It gets `LEAST_S` in any case.

    Args:
        left_s: seconds until the guard's deadline.
        start_s: seconds that this rung's child took to start; the next one's will take as long.
        later: how many rungs after this one compile.
    """
    half = left_s / 2
    if later and half >= start_s + LEAST_S:
        return half
    return max(left_s, LEAST_S)


def worth_trying(left_s: float, start_s: float) -> bool:
    """Whether a child that starts now still gets to compile; `start_s` is what the last one took to start."""
    return left_s >= start_s + LEAST_S


def start_limit(left_s: float) -> float:
    """Seconds within which a child must have begun to compile: until the deadline, a minute at the least."""
    return max(left_s, START_S)
