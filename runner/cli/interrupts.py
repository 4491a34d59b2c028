"""Signals that end a run, all handled the same way."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from runner.run.interrupts import ENDING

_Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def terminate_like_interrupt() -> AbstractContextManager[None]:
    """Handle every signal that ends a run like Ctrl-C: the step is terminated and the record stays valid."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    return _handled([number for number in ENDING if number is not signal.SIGINT], interrupt)


def interrupts_ignored() -> AbstractContextManager[None]:
    """Ignore these signals while the final report is printed: no step is left to end."""
    return _handled(ENDING, signal.SIG_IGN)


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: _Handler) -> Iterator[None]:
    # Python sets handlers only in the main thread. Under nohup SIGHUP is ignored, and stays ignored.
    here = threading.current_thread() is threading.main_thread()
    heeded = [number for number in numbers if here and signal.getsignal(number) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, handler)) for number in heeded]
    try:
        yield
    finally:
        for number, earlier in before:
            signal.signal(number, earlier)
