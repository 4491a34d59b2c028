"""Read by every Python that is started with this folder on its path: SIGUSR1 makes it write its stacks.

The guard's children, Inductor's workers and the processes of a wrapped command cannot be asked beforehand. Their stacks
go to RUNBOOK_STACKS/<pid>.txt, whose first line names the main thread. A sitecustomize of the host's own still runs.
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
        # Open for the life of the process: the handler writes to it.
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
    # Whoever imports this file looks for it there afterwards.
    sys.modules.setdefault("sitecustomize", own)
    # Inductor gives its workers this process's path, this folder included.
    sys.path[:] = places


if __name__ == "sitecustomize" and os.environ.get(FOLDER):
    folder = Path(os.environ[FOLDER])
    _answer_sigusr1(folder)
    # Forked workers would write into their parent's file, all at once.
    os.register_at_fork(after_in_child=lambda: _answer_sigusr1(folder))
    _run_the_hosts_own()
