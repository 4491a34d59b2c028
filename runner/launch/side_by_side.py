"""The same work for several things side by side, of which none is waited for without end."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


def side_by_side(work: Callable[[_Item], _Done], items: Sequence[_Item], most: int) -> "list[Future[_Done]]":
    """Begin the work for each item, for so many at once; a future an item, in their order.

    The threads are daemons: where a future does not come, Python ends all the same.
    """
    futures: list[Future[_Done]] = [Future() for _ in items]
    waiting: queue.SimpleQueue[tuple[Future[_Done], _Item]] = queue.SimpleQueue()
    for one in zip(futures, items, strict=True):
        waiting.put(one)

    def serve() -> None:
        while True:
            try:
                future, item = waiting.get_nowait()
            except queue.Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work(item))
            except BaseException as error:  # noqa: BLE001 - whoever waits for it hears of it
                future.set_exception(error)

    for _ in range(min(most, len(items))):
        threading.Thread(target=serve, daemon=True).start()
    return futures


def give_up(futures: "Sequence[Future[_Done]]", seconds: float) -> None:
    """Begin none that has not begun, and wait so long for the others."""
    for one in futures:
        one.cancel()
    wait(futures, seconds)
