"""Runs a call with a time limit: a hung driver or a dead mount can block a call forever."""

import errno
import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import TypeVar

from runner.base.parallel import in_parallel

_Answer = TypeVar("_Answer")


def answer_within(seconds: float, work: Callable[[], _Answer]) -> _Answer:
    """Return what `work` returns, or raise what it raises.

    A call that is stuck in the kernel cannot be interrupted, so it is left in a daemon thread, which does not keep the
    process from continuing or exiting. `work` must therefore only read.

    Raises:
        TimeoutError: `work` did not finish in time.
    """
    (future,) = in_parallel(lambda _: work(), (None,), 1)
    wait((future,), seconds)
    if not future.done():
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def seconds_left(deadline: float) -> float:
    """Seconds until a `time.monotonic()`, for the time limit of the next call.

    Raises:
        TimeoutError: none are left.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "no answer in time")
    return left
