"""Runs the work of `capture_fp8_flexattention_traces` under NVIDIA's profiler nsys, if it is installed."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runner.kit.children import Child


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
    with tempfile.TemporaryDirectory(prefix="nsys-") as folder:
        output = Path(folder) / "output"
        # nsys starts the work and agents of its own, which must end with it.
        try:
            with Child(command, os.environ, output) as child:
                ended = child.wait(deadline_s)
        except OSError as error:
            return f"no report: {error}".partition("\n")[0]
        said = output.read_text(encoding="utf-8", errors="replace").strip()
    if not ended:
        return f"no report: nsys did not end within {deadline_s:.0f} s"
    if child.status or not report.with_suffix(".nsys-rep").exists():
        last = said.splitlines()[-1:] or ["no output"]
        return f"no report: nsys exited with status {child.status}: {last[0][:200]}"
    return f"{report}.nsys-rep"
