"""The first thing that Python runs of the bundle. It must parse on every Python 3, and so does nothing itself."""

import os
import sys

OLDEST = (3, 11)

if sys.version_info < OLDEST:
    line = "this needs Python 3.11 or newer, and %s is %d.%d; run it with a newer one: python3.12 %s" % (  # noqa: UP031
        sys.executable,
        sys.version_info[0],
        sys.version_info[1],
        sys.argv[0],
    )
    sys.stderr.write("runbook: " + line + "\n")
    # As in start.py, which an older Python cannot read: Slurm drains a node whose Prolog fails, and to Nagios 2 is an
    # alarm and 3 is "unknown".
    if "--prolog" in sys.argv or os.environ.get("SLURM_SCRIPT_CONTEXT") in ("prolog_slurmd", "epilog_slurmd"):
        sys.exit(0)
    if "nagios" in sys.argv or "--format=nagios" in sys.argv:
        sys.stdout.write("RUNBOOK UNKNOWN - " + line.replace("|", "/") + "\n")
    sys.exit(3)

from start import main  # noqa: E402 - for a newer Python

main()
