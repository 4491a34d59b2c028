"""Signals that end a run; between two steps they are held until a point at which no data is lost.

Standard library only.
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
    """Held signals and their handlers. Python runs handlers only in the main thread."""

    def __init__(self) -> None:
        self.handlers: dict[signal.Signals, _Handler] = {}
        self.waiting: list[int] = []

    def begin(self) -> None:
        for number in ENDING:
            handler = signal.getsignal(number)
            # An ignored signal, for example under nohup, stays ignored, and a default action stays the default.
            if number not in self.handlers and callable(handler):
                self.handlers[number] = handler
                signal.signal(number, lambda number, _frame: self.waiting.append(number))

    def end(self) -> None:
        try:
            for number, handler in tuple(self.handlers.items()):
                signal.signal(number, handler)
                self.handlers.pop(number)
        except BaseException:
            # A signal that arrived meanwhile raised an exception; the other handlers must still be restored.
            self.end()
            raise
        while self.waiting:
            signal.raise_signal(self.waiting.pop())


_holding: _Holding | None = None


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold signals that end a run, except within `interrupts_let_in`, and handle them at the end.

    A signal between the start of a shell and the first wait for it would leave the shell running; one between two steps
    would leave an unfinished record.
    """
    global _holding  # noqa: PLW0603 - signal handlers belong to the process
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
    """Within `interrupts_held`: handle signals at once, held ones first."""
    holding = _holding
    if holding is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        holding.end()
        yield
    finally:
        holding.begin()
