"""Runs the same work for several items in parallel, without unbounded waiting for any of them."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


def in_parallel(work: Callable[[_Item], _Done], items: Sequence[_Item], most: int) -> "list[Future[_Done]]":
    """Start the work for each item, at most `most` at once; returns one future per item, in order.

    The threads are daemons: Python can exit even if a future never completes.
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
            except BaseException as error:  # noqa: BLE001 - raised for the caller that waits for the future
                future.set_exception(error)

    for _ in range(min(most, len(items))):
        threading.Thread(target=serve, daemon=True).start()
    return futures


def give_up(futures: "Sequence[Future[_Done]]", seconds: float) -> None:
    """Cancel the items that have not started, and wait at most this many seconds for the others."""
    for one in futures:
        one.cancel()
    wait(futures, seconds)
