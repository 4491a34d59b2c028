"""How long `runbook match` takes for 100 MB of log in which nearly every line holds some signature's anchor.

    python benchmarks/match_log.py

Prints the seconds of each run of the whole command, their median, and a 95 % interval of it; the bound is 5 s.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.base.stats import median_interval, percentile

ROOT = Path(__file__).parents[1]
BYTES, RUNS, BOUND_S = 100_000_000, 7, 5.0
LINES = (
    b"node-1: NCCL INFO Channel 07/16 : 0[0] -> 1[1] via P2P/CUMEM/read",
    b'  File "/usr/lib/python3/torch/nn/modules/module.py", line 1751, in _call_impl',
    b"step 1812 loss 2.31 scale 65536.0 tokens/s 18231.2 mem 120.1GiB",
    b"2026-11-25 01:02:03,123 INFO worker 3 ok",
    b"[rank3]: UserWarning: falling back to eager for op aten::foo",
    b"NCCL INFO NET/Socket interface eth0 up",
)


def main() -> int:
    """Run it, print, and return 1 where the median is above the bound."""
    source = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as file:
            while file.tell() < BYTES:
                file.write(b"\n".join(source.choices(LINES, k=10_000)) + b"\n")
        taken = []
        for _ in range(RUNS):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "runner.cli.main", "match", log],
                cwd=ROOT,
                capture_output=True,
                check=False,
            )
            taken.append(time.perf_counter() - start)
            if done.returncode not in {0, 1}:
                print(done.stderr.decode())
                return 2
    interval = median_interval(taken)
    assert interval
    median = percentile(taken, 50)
    print(" ".join(f"{one:.2f}" for one in taken), "s")
    print(f"median {median:.2f} s ({interval.low:.2f} … {interval.high:.2f}, 95 %); bound {BOUND_S:g} s")
    return int(median > BOUND_S)


if __name__ == "__main__":
    sys.exit(main())
