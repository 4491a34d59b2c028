"""What the runner costs: a runbook of 100 trivial steps, record included, beside bash running the same 100 blocks.

    python benchmarks/hundred_steps.py

Both sides take turns in one run. The runner's side is the whole program from its start: parse, plan, run each block
in its own session with its environment carried on, and save the record after every step.
"""

import subprocess
import sys
import tempfile
import time
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


def runner_seconds(folder: Path) -> float:
    """Seconds of `runbook run` over the hundred steps."""
    words = ["--runbooks", str(folder / "runbooks"), "--data", str(folder / "data"), "run", "hundred"]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "runner.cli.main", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def bash_seconds() -> float:
    """Seconds of one bash a block, nothing recorded."""
    began = time.perf_counter()
    for number in range(STEPS):
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"echo {number}"], check=True, stdout=subprocess.DEVNULL
        )
    return time.perf_counter() - began


def main() -> None:
    """Print both sides and their ratio, round by round interleaved."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runbooks").mkdir()
        blocks = "\n".join(f"```bash {{#s{number}}}\necho {number}\n```\n" for number in range(STEPS))
        (folder / "runbooks" / "hundred.md").write_text(HEAD + blocks + TAIL, encoding="utf-8")
        runner_seconds(folder)
        rounds = [(runner_seconds(folder), bash_seconds()) for _ in range(ROUNDS)]
    ours, theirs = [list(side) for side in zip(*rounds, strict=True)]
    ratio = median_interval([one / other for one, other in rounds])
    assert ratio is not None
    print(
        f"runbook run, {STEPS} steps, record included: median {spread(ours).median:.3f} s of {ROUNDS} rounds"
    )
    print(f"bash, the same {STEPS} blocks:               median {spread(theirs).median:.3f} s")
    print(f"ratio {spread([a / b for a, b in rounds]).median:.2f} [{ratio.low:.2f} … {ratio.high:.2f}]")


if __name__ == "__main__":
    main()
