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
    """Holds signals back from their handlers while it is closed. Python runs handlers only in the main thread."""

    def __init__(self) -> None:
        handlers = {number: signal.getsignal(number) for number in ENDING}
        # An ignored signal, for example under nohup, stays ignored, and a default action stays the default.
        self._handlers: dict[int, _Handler] = {
            number: handler for number, handler in handlers.items() if callable(handler)
        }
        self._waiting: list[int] = []
        self.open = False
        for number in self._handlers:
            signal.signal(number, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self.open:
            self._waiting.append(number)
            return
        # Closed already if the handler raises, wherever the signal arrived.
        self.open = False
        self._handlers[number](number, frame)
        self.open = True

    def handle_held(self) -> None:
        """Handle the held signals. A handler may raise; the others stay held."""
        while self._waiting:
            number = self._waiting.pop()
            self._handlers[number](number, None)

    def end(self) -> None:
        """Restore the handlers, and handle what is held."""
        self.open = True
        try:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        except BaseException:
            # A signal that arrived meanwhile raised an exception; the other handlers must still be restored.
            self.end()
            raise
        self.handle_held()


_holding: _Holding | None = None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold signals that end a run, except within `interrupts_let_in`, and handle them at the end.

    A signal between the start of a shell and the first wait for it would leave the shell running; one between two steps
    would leave an unfinished record.
    """
    global _holding  # noqa: PLW0603 - signal handlers belong to the process
    if _holding is not None or not _in_main_thread():
        yield
        return
    _holding = holding = _Holding()
    try:
        yield
    finally:
        _holding = None
        holding.end()


@contextmanager
def interrupts_let_in() -> Iterator[None]:
    """Within `interrupts_held`: handle signals at once, held ones first."""
    holding = _holding
    if holding is None or not _in_main_thread():
        yield
        return
    holding.open = True
    try:
        holding.handle_held()
        yield
    finally:
        holding.open = False
