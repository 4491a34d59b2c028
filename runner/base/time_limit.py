"""Runs a call with a time limit: a hung driver or a dead mount can block a call forever."""

import threading
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


def answer_within(seconds: float, work: Callable[[], _Answer]) -> _Answer:
    """Return what `work` returns, or raise what it raises.

    A call that is stuck in the kernel cannot be interrupted, so it is left in a daemon thread, which does not keep the
    process from continuing or exiting. `work` must therefore only read.

    Raises:
        TimeoutError: `work` did not finish in time.
    """
    answers: list[_Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as error:  # noqa: BLE001 - it is raised in the calling thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="answer-within")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]
