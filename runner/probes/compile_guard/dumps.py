"""Stacks of the Python processes of a compile, asked for by SIGUSR1 while they run."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from runner.placed import placed_file
from runner.probes.compile_guard.hook import sitecustomize as hook
from runner.probes.compile_guard.stacks import frames_of

# A stack dump takes milliseconds; a process that is stopped or in the kernel gives none.
_DUMP_S = 1.0
_POLL_S = 0.05
# Of a process with hundreds of threads, each some hundred frames deep.
_MOST_BYTES, _FIRST_LINE_BYTES = 16 << 20, 200
_CAUGHT = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)
_COMPILER = re.compile(r"/torch/_(?:dynamo|inductor|functorch)/")
_MAIN = re.compile(r"^main thread 0x([0-9a-f]+)$", re.MULTILINE)


def environment(folder: Path) -> dict[str, str]:
    """Variables under which every Python answers SIGUSR1 into this folder, and a crash on its standard error.

    The folder is made if it is missing. PYTHONPATH must be put before the caller's own.
    """
    folder.mkdir(exist_ok=True)
    return {
        hook.FOLDER: str(folder.resolve()),
        "PYTHONPATH": str(Path(hook.__file__).parent),
        "PYTHONFAULTHANDLER": "1",
    }


def ask(processes: Iterable[psutil.Process], folder: Path) -> Mapping[str, str]:
    """Ask processes for their stacks and return what they wrote, by file name; those that do not listen are left alone.

    A process that does not catch the signal would die of it: its mask in /proc tells.
    """
    before = _sizes(folder)
    asked = False
    for process in processes:
        if _listens(process.pid):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGUSR1)
                asked = True
    until, last = time.monotonic() + _DUMP_S, before
    while asked and time.monotonic() < until:
        time.sleep(_POLL_S)
        now = _sizes(folder)
        if now != before and now == last:
            break
        last = now
    grown = {name: before.get(name, 0) for name, size in last.items() if size > before.get(name, 0)}
    return {name: _since(folder / name, offset) for name, offset in grown.items()}


def main_frames(dumps: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    """The main threads' functions of several dumps, innermost first, one process after the other.

    Processes that are in the compiler come first, then the older ones.
    """
    stacks = []
    for name in sorted(dumps, key=lambda name: int(Path(name).stem)):
        with placed_file(folder / name) as descriptor:
            named = _MAIN.match(os.pread(descriptor, _FIRST_LINE_BYTES, 0).decode(errors="replace"))
        stacks.append(frames_of(dumps[name], int(named[1], 16) if named else None))
    stacks.sort(key=lambda frames: not any(_COMPILER.search(frame) for frame in frames))
    return tuple(frame for frames in stacks for frame in frames)


def _listens(pid: int) -> bool:
    try:
        caught = _CAUGHT.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return False
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.txt")}


def _since(path: Path, offset: int) -> str:
    with placed_file(path) as descriptor:
        return os.pread(descriptor, _MOST_BYTES, offset).decode(errors="replace")
