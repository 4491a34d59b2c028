"""Signals that end a run, all heeded the same way."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from runner.launch.interrupts import ENDING

_Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def terminate_like_interrupt() -> AbstractContextManager[None]:
    """Every signal that ends a run does so the way Ctrl-C does: the step is ended and the record stays valid."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    return _handled([number for number in ENDING if number is not signal.SIGINT], interrupt)


def interrupts_ignored() -> AbstractContextManager[None]:
    """Nothing is left to end; what is left to say is said."""
    return _handled(ENDING, signal.SIG_IGN)


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: _Handler) -> Iterator[None]:
    # Python lets handlers be set in the main thread only. Under nohup a hangup is ignored, and stays so.
    here = threading.current_thread() is threading.main_thread()
    heeded = [number for number in numbers if here and signal.getsignal(number) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, handler)) for number in heeded]
    try:
        yield
    finally:
        for number, earlier in before:
            signal.signal(number, earlier)
