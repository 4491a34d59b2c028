"""Signals that end a run, all heeded the same way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM and a hangup end a run the way Ctrl-C does: the step is ended and the record stays valid."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Under nohup a hangup is ignored, and stays so.
    heeded = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = [(number, signal.signal(number, interrupt)) for number in heeded]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
