"""Signals that end a run, and when they may: a signal between two steps waits for a moment at which it loses nothing.

Standard library alone.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C and Ctrl-\\, a hangup, and what batch systems send: TERM at the end, USR1 or USR2 as a warning before it.
ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_Handler = Callable[[int, FrameType | None], object]


class _Holding:
    """Signals that wait, and the handlers they wait for. Python runs handlers in the main thread only."""

    def __init__(self) -> None:
        self.handlers: dict[signal.Signals, _Handler] = {}
        self.waiting: list[int] = []

    def begin(self) -> None:
        for number in ENDING:
            handler = signal.getsignal(number)
            # A signal that is ignored, under nohup say, stays so; and the system's own answer is left to it.
            if number not in self.handlers and callable(handler):
                self.handlers[number] = handler
                signal.signal(number, lambda number, _frame: self.waiting.append(number))

    def end(self) -> None:
        try:
            for number, handler in tuple(self.handlers.items()):
                signal.signal(number, handler)
                self.handlers.pop(number)
        except BaseException:
            # One that came meanwhile was heeded: the other handlers go back all the same.
            self.end()
            raise
        while self.waiting:
            signal.raise_signal(self.waiting.pop())


_holding: _Holding | None = None


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Keep signals that end a run waiting, save within `interrupts_let_in`, and heed them at the end.

    One that came between the start of a shell and the first look at it would leave the shell running for good; one
    between two steps would leave a record without its end.
    """
    global _holding  # noqa: PLW0603 - handlers of signals are the process's
    if _holding is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _holding = holding = _Holding()
    holding.begin()
    try:
        yield
    finally:
        _holding = None
        holding.end()


@contextmanager
def interrupts_let_in() -> Iterator[None]:
    """Within `interrupts_held`: heed signals at once, those that wait first."""
    holding = _holding
    if holding is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        holding.end()
        yield
    finally:
        holding.begin()
