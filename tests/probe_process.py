"""A probe in a process of its own, as a step runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def probe(name: str, *words: str, text: str | None = None) -> tuple[int, dict[str, Any], str]:
    """Its exit status, its document (empty without one) and its messages; `text` is its standard input."""
    done = subprocess.run(
        [sys.executable, "-m", f"runner.probes.{name}", *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr
