"""NVIDIA's library NVML: loading it, and calls that are cut off if they do not return.

A driver that hangs blocks single calls for ever, and most of the others still answer. Each call therefore has a time
limit of its own, and one that exceeded it is not made again: not by this process, and not by those that it starts.
"""

import ctypes
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
# Names of the calls that hung, from the process that started this one.
HUNG_VARIABLE = "RUNBOOK_NVML_HUNG"
_CALL_S = 5.0
# Without persistence mode, the driver starts a GPU anew for every program that opens it: 1 to 3 s each (NVIDIA, Driver
# Persistence r560, 2024). nvmlInit starts none: the calls that give a handle do (NVML API reference r560, 2024).
_OPENING_S = 8.0
_OPENING = ("nvmlDeviceGetHandleBy",)
# More than any node has: a broken driver may count to 4,294,967,295, and each would be asked for.
_MOST_GPUS = 1024
# A driver that hangs at two calls hangs at more.
_MOST_HUNG = 2
# Of this process: each reader of NVML loads it anew, and the driver stays the same.
_HUNG: dict[str, str] = {}


class NvmlHungError(TimeoutError):
    """A call of NVML that did not return in time."""


class GuardedNvml:
    """The module `pynvml`, with a time limit for every call; its constants and classes are passed through."""

    def __init__(
        self, module: Any, hung: dict[str, str], seconds: Callable[[str], float] | None = None
    ) -> None:
        """Guard a module.

        Args:
            module: `pynvml`.
            hung: calls that did not return, and why they are taken to hang; calls that hang are added.
            seconds: the time limit of a call by its name; by default 5 s, and 8 s for those that open GPUs.
        """
        self._module = module
        self._hung = hung
        self._seconds = seconds or _limit
        self._line = _Line()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if not name.startswith("nvml") or not callable(value):
            return value

        def call(*arguments: object) -> Any:
            return self._call(name, value, arguments)

        return call

    def _call(self, name: str, function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        if name in self._hung or len(self._hung) >= _MOST_HUNG:
            if name == "nvmlShutdown":
                return None
            raise NvmlHungError(self._why(name))
        seconds = self._seconds(name)
        future = self._line.put(lambda: function(*arguments))
        wait((future,), seconds)
        if not future.done():
            self._hung[name] = f"no answer within {seconds:g} s"
            self._line = _Line()
            raise NvmlHungError(self._why(name))
        try:
            answer = future.result()
        except UnicodeError as error:
            # pynvml decodes names as UTF-8.
            raise self._module.NVMLError(self._module.NVML_ERROR_UNKNOWN) from error
        if name.startswith("nvmlDeviceGetCount") and answer > _MOST_GPUS:
            raise self._module.NVMLError(self._module.NVML_ERROR_UNKNOWN)
        return answer

    def _why(self, name: str) -> str:
        if name in self._hung:
            return f"{name}: {self._hung[name]}"
        return f"{name} was not called, because {' and '.join(self._hung)} did not return"


class _Line:
    """A daemon thread that makes one call after the other: it keeps no process from exiting."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def put(self, work: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.put((future, work))
        return future

    def _serve(self) -> None:
        while True:
            future, work = self._waiting.get()
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised for the caller that waits for the future
                future.set_exception(error)


def _limit(name: str) -> float:
    return _OPENING_S if name.startswith(_OPENING) else _CALL_S


def load_nvml() -> Any:
    """The module `pynvml`, guarded; None on a host without NVIDIA's library, where an import would only take time."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    import pynvml  # noqa: PLC0415 - as above

    for name in filter(None, os.environ.get(HUNG_VARIABLE, "").split(",")):
        _HUNG.setdefault(name, "did not return before")
    return GuardedNvml(pynvml, _HUNG)


def hung_calls() -> tuple[str, ...]:
    """Names of the calls that did not return to this process, or to the one that started it."""
    return tuple(_HUNG)


def is_marked_stand_in() -> bool:
    """Whether the library marks itself as a stub: whatever is read through it is simulated."""
    try:
        return hasattr(ctypes.CDLL(_LIBRARY), "runbook_stand_in_nvml")
    except OSError:
        return False


def utilisation_of(rates: Any) -> float | None:
    """The share of time in which a GPU was busy, from nvmlDeviceGetUtilizationRates; None if it is not known.

    NVML counts percent; some virtual GPUs answer with a number outside of it.
    """
    return rates.gpu / 100 if rates is not None and 0 <= rates.gpu <= 100 else None  # noqa: PLR2004


def shut_down_nvml(nvml: Any) -> None:
    """End the use of NVML; nothing happens if that fails."""
    try:
        nvml.nvmlShutdown()
    except (nvml.NVMLError, NvmlHungError):
        # Whatever was read stays right.
        return


def ask_nvml(nvml: Any, name: str, *arguments: object) -> Any:
    """One reading; None if this board or driver does not support it.

    Raises:
        NvmlHungError: it did not return in time.
    """
    try:
        return getattr(nvml, name)(*arguments)
    except nvml.NVMLError:
        return None
