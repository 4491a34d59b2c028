"""A small library in NVML's place, so that the real pynvml can be driven on a host without GPUs."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

EIGHT_B200 = """\
driver 580.95.05
name NVIDIA B200
count 8
memory 192265846784
capability 10 0
links 18
nvlink_version 5
clocks 1965 3996
power_limit 1000000
fabric 3 0 0
"""


@cache
def library_folder() -> Path:
    """Compile the stand-in once; the folder that LD_LIBRARY_PATH has to name."""
    folder = Path(tempfile.mkdtemp(prefix="stand-in-nvml-"))
    sources = sorted(Path(__file__).parent.glob("*.c"))
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", folder / "libnvidia-ml.so.1", *sources, "-lm"], check=True)
    return folder


def environment(folder: Path, board: str) -> dict[str, str]:
    """The variables with which a child process sees this board instead of what is really there."""
    path = folder / "board.txt"
    path.write_text(board, encoding="utf-8")
    return {"LD_LIBRARY_PATH": str(library_folder()), "RUNBOOK_STAND_IN_NVML": str(path)}
