"""Runs `gpu_state` over the stand-in for NVML, or over a pasted text."""

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
class Judged:
    """What the probe said."""

    status: int
    document: dict[str, Any]
    said: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The findings as the document has them."""
        return list(self.document.get("details", {}).get("findings", []))

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        """Kind, action and place of each."""
        return [(one["kind"], one["action"], one["where"]) for one in self.records]

    @property
    def faults(self) -> list[tuple[str, str, str]]:
        """Those that need something to be done."""
        return [one for one in self.findings if one[1] != "keep"]

    @property
    def notes(self) -> list[str]:
        """The kinds of the others."""
        return [kind for kind, action, _ in self.findings if action == "keep"]

    @property
    def not_read(self) -> list[dict[str, Any]]:
        return list(self.document.get("details", {}).get("not_read", []))

    @property
    def unread(self) -> dict[str, str]:
        """What is unknown, and why."""
        return {one["what"]: one["why"] for one in self.not_read}

    def numbers(self, name: str) -> list[float]:
        """The values of a metric."""
        return [one["value"] for one in self.document["measurements"] if one["name"] == name]

    def by_gpu(self, name: str) -> dict[int | None, float]:
        """The values of a metric, by GPU."""
        return {
            one["labels"].get("gpu"): one["value"]
            for one in self.document["measurements"]
            if one["name"] == name
        }


def judge_node(folder: Path, board: str, group: str, *arguments: str) -> Judged:
    """The verdict on a node with this board."""
    return _run(["--group", group, *arguments], {**os.environ, **environment(folder, board)}, None)


def judge_text(text: str, group: str) -> Judged:
    """The verdict on a pasted text."""
    return _run(["--group", group, "--from", "-"], dict(os.environ), text)


def _run(arguments: list[str], variables: dict[str, str], text: str | None) -> Judged:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.gpu_state", *arguments],
        env=variables,
        input=text or "",
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return Judged(done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr)
