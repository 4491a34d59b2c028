"""Which process a probe checks instead of its own.

Many variables make a program load code: HOME for Python, and others for git, bash, perl or NCCL. So
`runbook diagnose --pid` runs its steps in its caller's environment and passes the process id in RUNBOOK_JUDGED_PID.
Probes that check an environment read that process's instead of their own.
"""

import os
import re

from runner.base.errors import InputError

VARIABLE = "RUNBOOK_JUDGED_PID"


def judged_pid() -> int | None:
    """The process whose environment to check; None for this process.

    Raises:
        InputError: the variable is not a process id.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", given):
        raise InputError(f"{VARIABLE} is not a process id; unset it and use --pid")
    return int(given)
