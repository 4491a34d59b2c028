"""CPU time of `import runner` and of `runbook list` beside a bare interpreter, interleaved in one run.

python benchmarks/start_up.py
"""

import resource
import subprocess
import sys
from pathlib import Path

from runner.base.stats import median_interval, spread

ROOT = Path(__file__).parents[1]
ROUNDS = 15
COMMANDS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "import runner": [sys.executable, "-c", "import runner"],
    "runbook list": [sys.executable, "-m", "runner.cli.main", "list"],
}


def cpu_seconds(command: list[str]) -> float:
    """CPU seconds of one run of a command: these commands wait for nothing, and other work does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Alternate, so that a drift of the machine falls on every side alike."""
    for command in COMMANDS.values():
        cpu_seconds(command)
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            samples[name].append(cpu_seconds(command))
    bare = samples["bare interpreter"]
    for name, taken in samples.items():
        over = [one - other for one, other in zip(taken, bare, strict=True)]
        interval = median_interval(over)
        assert interval is not None
        print(
            f"{name:18} median {spread(taken).median * 1e3:6.1f} ms   over bare {spread(over).median * 1e3:6.1f} ms "
            f"[{interval.low * 1e3:.1f} … {interval.high * 1e3:.1f}], {ROUNDS} rounds"
        )


if __name__ == "__main__":
    main()
