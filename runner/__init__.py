"""Runbooks for large-model clusters that prove themselves.

The package is two halves that meet only through files: the runner reads `runbooks/`, runs their steps and
writes records; the pages read runbooks and records and never execute anything.
"""

import sys

from runner.uncaught import end_with_what_is_true, is_program

__version__ = "0.1.0"

if is_program(sys.argv):
    sys.excepthook = end_with_what_is_true
    # Below the hook, since it may be what cannot be imported.
    import signal

    # Whoever started this may have ignored it, and would have the exit status of every child lost: Python reads 0 then.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
