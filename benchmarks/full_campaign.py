"""Every entry of this project over a Slurm of 8 nodes on this machine: 8 records of each, and nothing left behind.

    python benchmarks/full_campaign.py [WORD …]

Words go to `runbook run`, in place of `--reproduce --without-slow`: `--phase diagnose --without-slow` is quicker.
The nodes share this machine, so they take turns (a lock around each run): what they measure is not disturbed, and the
whole takes eight times as long as the demo. Too slow for CI; the tests play the same with cheap entries.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.cluster import cluster

ROOT = Path(__file__).parents[1]
ENTRIES = ("1", "2", "3", "4", "5")


def main() -> None:
    """Run the campaign and print what came of it; exit status 1 where a record is missing or a job is left."""
    with tempfile.TemporaryDirectory(prefix="rb-full-") as name, cluster() as slurm:
        here = Path(name)
        wrap, environment = slurm.prepared(here, 'exec flock "$HERE/turn" "$@"')
        what = sys.argv[1:] or ["--reproduce", "--without-slow"]
        words = ["--data", str(here / "data"), "run", *ENTRIES, *what, "--json"]
        words += ["--on", "slurm", "--prefix", str(wrap), "--time", "600"]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "runner.cli.main", *words],
            cwd=ROOT,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
        )
        said, left = json.loads(done.stdout), slurm.queue()
    counts = Counter((one["runbook"]["id"], one["outcome"]) for one in said["records"])
    for (entry, outcome), count in sorted(counts.items()):
        print(f"{entry:24} {outcome:14} {count}")
    entries = Counter(one["runbook"]["id"] for one in said["records"])
    print(
        f"exit status {done.returncode}, {time.monotonic() - began:.0f} s, {len(left)} jobs left in the queue"
    )
    if left or len(entries) != len(ENTRIES) or set(entries.values()) != {8}:
        sys.exit("not every node gave a record of every entry, or a job was left")


if __name__ == "__main__":
    main()
