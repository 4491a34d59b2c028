"""Runs the probe gpu_state over the stand-in for NVML."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.nvml import environment

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class GpuAnswer:
    """What the probe answered."""

    status: int
    document: dict[str, Any]
    told: str

    @property
    def findings(self) -> list[dict[str, Any]]:
        return list(self.document["details"]["findings"])

    @property
    def faults(self) -> list[tuple[str, str, str]]:
        """Kind, action and place of each finding that needs something."""
        return [
            (one["kind"], one["action"], one["where"]) for one in self.findings if one["action"] != "keep"
        ]

    @property
    def notes(self) -> list[str]:
        return [one["kind"] for one in self.findings if one["action"] == "keep"]

    @property
    def not_read(self) -> list[dict[str, Any]]:
        return list(self.document["details"]["not_read"])

    def values(self, name: str) -> dict[int | None, float]:
        """The numbers of a metric, by GPU."""
        return {
            one["labels"].get("gpu"): one["value"]
            for one in self.document["measurements"]
            if one["name"] == name
        }


def gpu_state(folder: Path, board: str, *arguments: str) -> GpuAnswer:
    """Run it on this board."""
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.gpu_state", *arguments],
        env={**os.environ, **environment(folder, board), "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    document = json.loads(done.stdout) if done.stdout else {}
    return GpuAnswer(done.returncode, document, done.stderr)
