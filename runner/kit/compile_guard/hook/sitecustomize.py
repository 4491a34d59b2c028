"""Loaded by every Python process that has this folder on its path: SIGUSR1 makes it dump its stacks.

The guard's children, Inductor's workers and the processes of a wrapped command cannot install the handler themselves.
Their stacks go to RUNBOOK_STACKS/<pid>.txt, whose first line names the main thread. The host's own sitecustomize still
runs.
"""

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import threading
from pathlib import Path

FOLDER = "RUNBOOK_STACKS"


def _answer_sigusr1(folder: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        # Kept open until the process ends: the handler writes to it.
        file = (folder / f"{os.getpid()}.txt").open("a")
        file.write(f"main thread 0x{threading.main_thread().ident or 0:x}\n")
        file.flush()
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def _run_the_hosts_own() -> None:
    here, places = str(Path(__file__).parent), list(sys.path)
    sys.path[:] = [place for place in places if place != here]
    own = sys.modules.pop("sitecustomize")
    with contextlib.suppress(ImportError):
        importlib.import_module("sitecustomize")
    # The import of this file expects it there afterwards.
    sys.modules.setdefault("sitecustomize", own)
    # Inductor passes this process's path to its workers, including this folder.
    sys.path[:] = places


if __name__ == "sitecustomize" and os.environ.get(FOLDER):
    folder = Path(os.environ[FOLDER])
    _answer_sigusr1(folder)
    # Without this, forked workers would all write to their parent's file.
    os.register_at_fork(after_in_child=lambda: _answer_sigusr1(folder))
    _run_the_hosts_own()
