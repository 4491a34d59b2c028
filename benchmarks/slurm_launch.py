"""What a campaign costs beside bare Slurm: a trivial entry over 8 nodes, and the same batch scripts by sbatch alone.

    python benchmarks/slurm_launch.py

A Slurm of 8 nodes is started on loopback (Debian's slurm-wlm and munge). Both sides take turns. The campaign's side is
the whole program: choose nodes, pack the code, submit, follow, take the records in, report. The other side submits the
very scripts that the campaign before it submitted, one sbatch a node, and looks ten times a second for their ends.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.base.stats import median_interval, spread
from tests.cluster import Cluster, cluster

ROOT = Path(__file__).parents[1]
ROUNDS = 7
ENTRY = (
    "---\nid: trivial\nnumber: 1\ntitle: A trivial entry\n---\n\n## Symptom\n\nNone.\n\n"
    "## By hand\n\n```bash\ntrue\n```\n\n## Root cause\n\nNone.\n\n"
    "## Diagnose\n\n```bash {#d}\ntrue\n```\n\n## Fix\n\nNone.\n\n## Verify\n\nNone.\n"
)
# The scripts that sbatch gets are kept.
KEEP = '#!/bin/bash\nkept=$(mktemp "$HERE/scripts/XXXXXXXX")\ncat > "$kept"\n{real} "$@" < "$kept"\n'


def campaign_seconds(here: Path, environment: dict[str, str]) -> float:
    """Seconds of `runbook run --on slurm` from its start to its end."""
    for old in (here / "scripts").iterdir():
        old.unlink()
    places = ["--runbooks", str(here / "runbooks"), "--data", str(here / "data")]
    words = [*places, "run", "trivial", "--on", "slurm", "--prefix", str(here / "wrap"), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", *words],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    taken = time.perf_counter() - began
    assert len(json.loads(done.stdout)["records"]) == 8
    return taken


def bare_seconds(here: Path, slurm: Cluster, environment: dict[str, str]) -> float:
    """Seconds of one sbatch a node of the scripts that the campaign kept, until none of them is in the queue."""
    scripts = sorted((here / "scripts").iterdir())
    began = time.perf_counter()
    for node, script in zip(slurm.nodes, scripts, strict=True):
        subprocess.run(
            [slurm_program("sbatch"), "--no-requeue", "--exclusive", "-w", node, "-o", "/dev/null", script],
            env=environment,
            check=True,
            capture_output=True,
        )
    while slurm.queue():
        time.sleep(0.1)
    return time.perf_counter() - began


def slurm_program(name: str) -> str:
    """The real program, not the keeper before it on PATH."""
    found = [folder for folder in os.get_exec_path() if (Path(folder) / name).exists()]
    return str(Path(found[0]) / name)


def main() -> None:
    """Print both sides and their difference, round by round interleaved."""
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as name, cluster() as slurm:
        here = Path(name)
        _, bare = slurm.prepared(here, 'exec "$@"')
        for folder in ("runbooks", "scripts", "bin"):
            (here / folder).mkdir()
        (here / "runbooks" / "trivial.md").write_text(ENTRY, encoding="utf-8")
        keeper = here / "bin" / "sbatch"
        keeper.write_text(KEEP.format(real=slurm_program("sbatch")), encoding="utf-8")
        keeper.chmod(0o755)
        ours_environment = bare | {"PATH": f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        campaign_seconds(here, ours_environment)
        bare_seconds(here, slurm, bare)
        rounds = [
            (campaign_seconds(here, ours_environment), bare_seconds(here, slurm, bare)) for _ in range(ROUNDS)
        ]
    ours, theirs = [list(side) for side in zip(*rounds, strict=True)]
    more = [one - other for one, other in rounds]
    ratio = [one / other for one, other in rounds]
    for side, taken in (("campaign of 8 nodes", ours), ("bare sbatch, same scripts", theirs)):
        print(f"{side:26} median {spread(taken).median:.2f} s of {ROUNDS} rounds")
    for what, samples, unit in (("more in all", more, " s"), ("ratio", ratio, "")):
        interval = median_interval(samples)
        assert interval is not None
        print(f"{what} {spread(samples).median:.2f}{unit} [{interval.low:.2f} … {interval.high:.2f}]")


if __name__ == "__main__":
    main()
