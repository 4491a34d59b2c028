"""Stack dumps of the Python processes of a compile, requested by SIGUSR1 while they run."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from runner.base.placed import placed_file
from runner.kit.compile_guard.hook import sitecustomize as hook
from runner.kit.compile_guard.stacks import frames_of

# A stack dump takes milliseconds; a process that is stopped or in the kernel gives none.
_DUMP_S = 1.0
_POLL_S = 0.05
# Enough for hundreds of threads, each some hundred frames deep.
_MOST_BYTES, _FIRST_LINE_BYTES = 16 << 20, 200
_CAUGHT = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)
_COMPILER = re.compile(r"/torch/_(?:dynamo|inductor|functorch)/")
_MAIN = re.compile(r"^main thread 0x([0-9a-f]+)$", re.MULTILINE)


def dumping_environment(folder: Path) -> dict[str, str]:
    """Variables that make every Python process dump its stacks into this folder on SIGUSR1, and to stderr on a crash.

    The folder is created if missing. PYTHONPATH must be prepended to the caller's.
    """
    folder.mkdir(exist_ok=True)
    return {
        hook.FOLDER: str(folder.resolve()),
        "PYTHONPATH": str(Path(hook.__file__).parent),
        "PYTHONFAULTHANDLER": "1",
    }


def ask(processes: Iterable[psutil.Process], folder: Path) -> Mapping[str, str]:
    """Request stacks from processes and return the dumps by file name; processes without a handler are skipped.

    The signal would kill a process that does not catch it; its signal mask in /proc shows whether it does. On a busy
    host the first dump may be complete before another one begins, so all of them are awaited.
    """
    before = _sizes(folder)
    awaited: set[str] | None = None
    for process in processes:
        if _has_handler(process.pid):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGUSR1)
                # A handler of the process's own writes no file here.
                awaited = (awaited or set()) | ({f"{process.pid}.txt"} & before.keys())
    until, last = time.monotonic() + _DUMP_S, before
    while awaited is not None and time.monotonic() < until:
        time.sleep(_POLL_S)
        now = _sizes(folder)
        if now != before and now == last and all(now.get(name) != before[name] for name in awaited):
            break
        last = now
    grown = {name: before.get(name, 0) for name, size in last.items() if size > before.get(name, 0)}
    return {name: _since(folder / name, offset) for name, offset in grown.items()}


def main_frames(dumps: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    """The functions on the main threads of several dumps, innermost first, one process after the other.

    Processes in the compiler come first, then older processes.
    """
    stacks = []
    for name in sorted(dumps, key=lambda name: int(Path(name).stem)):
        with placed_file(folder / name) as descriptor:
            named = _MAIN.match(os.pread(descriptor, _FIRST_LINE_BYTES, 0).decode(errors="replace"))
        stacks.append(frames_of(dumps[name], int(named[1], 16) if named else None))
    stacks.sort(key=lambda frames: not any(_COMPILER.search(frame) for frame in frames))
    return tuple(frame for frames in stacks for frame in frames)


def _has_handler(pid: int) -> bool:
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
