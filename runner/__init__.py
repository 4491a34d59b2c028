"""Runbooks for large-model clusters that test themselves.

The package has two halves that share only files: the runner reads `runbooks/`, runs their steps and
writes records; the pages read runbooks and records and never execute anything.
"""

import sys

from runner.base.uncaught import is_program, report_and_exit

__version__ = "0.1.0"

if is_program(sys.argv):
    sys.excepthook = report_and_exit
    # Imported after the hook is set, because this import itself may fail.
    import signal

    # The parent process may ignore SIGCHLD; Python would then read exit status 0 for every child.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
