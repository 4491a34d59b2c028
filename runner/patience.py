"""Waits for an answer only so long: a wedged driver or a frozen mount can hold a call for good."""

import threading
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


def answer_within(seconds: float, work: Callable[[], _Answer]) -> _Answer:
    """What `work` returns or raises.

    A call that is stuck in the kernel cannot be interrupted, so it is left behind in a thread that keeps nobody from
    going on, nor from ending. The work must therefore only read.

    Raises:
        TimeoutError: there was no answer in time.
    """
    answers: list[_Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="answer-within")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]
