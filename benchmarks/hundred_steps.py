"""What the runner costs: a runbook of 100 trivial steps, record included, beside bash running the same 100 blocks.

    python benchmarks/hundred_steps.py

The rounds of both sides alternate in one run. The runner's side is the whole program from its start: parse, plan, run
each block in its own session with its environment carried on, and save the record after every step. Where other work
shares the machine, only the CPU seconds tell anything.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runner.base.stats import median_interval, spread

ROOT = Path(__file__).parents[1]
STEPS = 100
ROUNDS = 7
HEAD = (
    "---\nid: hundred\nnumber: 1\ntitle: A hundred steps\n---\n\n"
    "## Symptom\n\nNone.\n\n## By hand\n\n```bash\ntrue\n```\n\n## Root cause\n\nNone.\n\n## Diagnose\n\n"
)
TAIL = "\n## Fix\n\nNone.\n\n## Verify\n\nNone.\n"


Taken = tuple[float, float]


def taken(work: Callable[[], object]) -> Taken:
    """Wall seconds of a side, and CPU seconds of all processes that it started and that ended."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_entry(folder: Path) -> None:
    """`runbook run` over the hundred steps."""
    words = ["--runbooks", str(folder / "runbooks"), "--data", str(folder / "data"), "run", "hundred"]
    command = [sys.executable, "-m", "runner.cli.main", *words]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def run_blocks() -> None:
    """One bash a block, nothing recorded."""
    for number in range(STEPS):
        words = ["bash", "-euo", "pipefail", "-c", f"echo {number}"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def show(name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """One line: the median of each side, and their ratio with its interval."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    interval = median_interval(ratios)
    assert interval is not None
    print(
        f"{name}: runbook run {spread(ours).median:.3f} s, bash {spread(theirs).median:.3f} s, "
        f"ratio {spread(ratios).median:.2f} [{interval.low:.2f} … {interval.high:.2f}], {len(ratios)} rounds"
    )


def main() -> None:
    """Print both sides and their ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runbooks").mkdir()
        blocks = "\n".join(f"```bash {{#s{number}}}\necho {number}\n```\n" for number in range(STEPS))
        (folder / "runbooks" / "hundred.md").write_text(HEAD + blocks + TAIL, encoding="utf-8")
        run_entry(folder)
        rounds = [(taken(lambda: run_entry(folder)), taken(run_blocks)) for _ in range(ROUNDS)]
    print(f"{STEPS} steps, record included, beside bash running the same {STEPS} blocks")
    for place, name in enumerate(("wall", "CPU")):
        show(name, [one[place] for one, _ in rounds], [other[place] for _, other in rounds])


if __name__ == "__main__":
    main()
