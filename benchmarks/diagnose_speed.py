"""How long `runbook diagnose` takes on a stand-in for eight B200: sound, and with a call of NVML that never returns.

    python benchmarks/diagnose_speed.py
    python benchmarks/diagnose_speed.py --more 12 --rounds 5

Needs a C compiler for the stand-in library. `--more N` adds N entries whose step is one probe that reads NVML, as a
measure of how the time grows. Wall seconds and CPU seconds of all processes, the median of the rounds.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import nvml  # noqa: E402 - of this checkout
from tests.test_cli import step, write_entry  # noqa: E402

CALLS = (
    None,
    "nvmlInit",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetNvLinkState",
)


def entries(folder: Path, more: int) -> Path:
    """The project's entries, and some that read the GPUs once more."""
    for name in ("runbooks", "kb"):
        shutil.copytree(ROOT / name, folder.parent / name)
    for number in range(more):
        write_entry(
            folder,
            step("d", "python -m runner.probes.topology"),
            entry_id=f"more-{number}",
            number=900 + number,
        )
    return folder


def measured(
    runbooks: Path, variables: dict[str, str], rounds: int
) -> tuple[float, float, dict[str, object]]:
    walls, cpus, said = [], [], {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    for _ in range(rounds):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "runner.cli.main", "--runbooks", runbooks, "diagnose", "--json"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        walls.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        said = json.loads(done.stdout)
    return statistics.median(walls), statistics.median(cpus), said


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--more", type=int, default=0, metavar="N", help="entries to add (default 0)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of each case (default 3)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runbooks = entries(Path(scratch) / "runbooks", given.more)
        for call in CALLS:
            board = nvml.EIGHT_B200 + (f"fail {call} 9999\n" if call else "")
            wall, cpu, said = measured(runbooks, nvml.environment(Path(scratch), board), given.rounds)
            named = call is None or call.removesuffix("_v2") in json.dumps(said)
            print(
                f"{call or 'sound':32} {wall:6.1f} s wall  {cpu:6.1f} s CPU  exit status {said['exit_status']}  "
                f"{'' if call is None else 'named' if named else 'NOT named'}"
            )


if __name__ == "__main__":
    main()
