"""Runs the work of `capture_fp8_flexattention_traces` under NVIDIA's profiler nsys, if it is installed."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from runner.base.programs import run_program
from runner.kit.compile_guard import processes


def under_nsys(report: Path, work: Sequence[str], deadline_s: float) -> str:
    """Run `traced_work` under nsys; return the path of nsys's report, or why there is none.

    Args:
        report: path of the report, without its suffix.
        work: arguments of `traced_work`.
        deadline_s: seconds until nsys and everything that it started is ended.
    """
    nsys = shutil.which("nsys")
    if nsys is None:
        return "not on PATH"
    command = [
        nsys,
        "profile",
        "--trace=cuda,nvtx,osrt",
        "--force-overwrite=true",
        f"--output={report}",
        sys.executable,
        "-m",
        "runner.kit.traced_work",
        *work,
    ]
    # nsys starts the work and agents of its own, which must end with it.
    token = uuid.uuid4().hex
    try:
        done = run_program(
            command, text=True, timeout=max(0.0, deadline_s), env=os.environ | {processes.TOKEN: token}
        )
    except OSError as error:
        return f"no report: {error}".partition("\n")[0]
    except subprocess.TimeoutExpired:
        processes.end_marked(token)
        return f"no report: nsys did not end within {deadline_s:.0f} s"
    if done.returncode or not report.with_suffix(".nsys-rep").exists():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        return f"no report: nsys exited with status {done.returncode}: {last[0][:200]}"
    return f"{report}.nsys-rep"
