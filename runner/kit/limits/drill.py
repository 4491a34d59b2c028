"""What `limits_drill` does: the same real work under a small limit and without it."""

import argparse
import contextlib
import importlib.util
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import InputError, RunbookError
from runner.base.placed import read_placed
from runner.base.plain import one_line
from runner.base.units import format_value, parse_bytes
from runner.kit.children import Child, ended_by_sigterm, without_launch
from runner.kit.limits.child_group import ChildGroup, child_group
from runner.kit.limits.worker import FAILED, REFUSED
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.record.model import Measurement
from runner.vocabulary.sources import DRILL

# Importing torch from a cold disk takes tens of seconds.
_DEADLINE_S = 150.0
_MOST_OUTPUT = 1 << 20
# Docker's default; as little as the loader's own files and some tensors; an old default; two thirds less than needed.
DEFAULTS = {"shm": "64MiB", "nofile": "40", "memlock": "64KiB", "memory": "64MiB"}
# Below that a process cannot begin; above, the work that the limit is for does not show it.
_LEAST = {"shm": 1 << 20, "nofile": 20, "memlock": 0, "memory": 16 << 20}
_LARGEST = 1 << 40
_SAME = 1.05


@dataclass(frozen=True)
class _Ended:
    """How the work ended: exit status, or minus the signal; its last line; what `free` showed, in bytes."""

    status: int
    line: str
    memory: int | None

    @property
    def failed(self) -> bool:
        return self.status == FAILED or self.status in {-signal.SIGKILL, -signal.SIGBUS}

    @property
    def told(self) -> str:
        """What a log shows of it, in short."""
        if self.status < 0:
            return f"exit status {128 - self.status}: {signal.strsignal(-self.status)}"
        return self.line.partition(". Please")[0]


def drill_limit(arguments: argparse.Namespace) -> Findings:
    """Run the work under the limit; if it fails, run it without, so that nothing but the limit can be the cause.

    Raises:
        InputError: the size is no size, or too small to begin.
        NotApplicableError: the limit cannot be set here.
        RunbookError: the work failed without the limit too, or did not end.
    """
    limit = arguments.limit
    size = _size(limit, arguments.to or DEFAULTS[limit])
    work = _work(limit)
    shown = str(size) if limit == "nofile" else format_value(size, "B")
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="runbook-limits-") as folder:
        output = Path(folder) / "output"
        with _group(limit, size) as group:
            ended = _run(limit, size, str(group.folder) if group else work, output)
            kills = group.kills() if group else 0
        without = _run(limit, 0, work, output) if ended.failed else None
    if without is not None and without.failed:
        raise RunbookError(
            f"the work fails without the limit too ({without.told}); `host_paths --group limits` shows what limits it"
        )
    labels = {"limit": limit, "work": work}
    if ended.failed:
        say(ended.told)
    return Findings(
        measurements=[
            single("limit_failed_work", ended.failed, **labels),
            *_memory_measurements(limit, size, ended, kills, labels),
        ],
        status="symptom" if ended.failed else "ok",
        reason=f"with {limit} limited to {shown} the work fails ({ended.told}); without, it is done"
        if ended.failed
        else None,
        requested={"limit": limit, "to": size},
        effective={"source": DRILL, "limit": limit, "to": size, "work": work},
        fallback_reason=None if work in {"loader", "mlock", "allocation"} else "torch is not installed",
        details={
            "last_line": ended.line,
            "exit_status": ended.status if ended.status >= 0 else 128 - ended.status,
        },
    )


def _memory_measurements(
    limit: str, size: int, ended: _Ended, kills: int, labels: dict[str, str]
) -> Iterator[Measurement]:
    if limit != "memory":
        return
    if ended.failed:
        yield single("killed_by_limit", ended.status == -signal.SIGKILL and kills > 0, **labels)
    if ended.memory is not None:
        yield single("free_shows_limit", ended.memory <= _SAME * size, **labels)


def _size(limit: str, text: str) -> int:
    if limit == "nofile":
        if not re.fullmatch(r"[0-9]{1,7}", text):
            raise InputError(f"--to {text!r}: the limit of open files is a whole number")
        size = int(text)
    else:
        size = parse_bytes(text)
    if not _LEAST[limit] < size <= _LARGEST:
        raise InputError(
            f"--to {text}: must be above {_LEAST[limit]}, so that the work can begin, and at most 2^40"
        )
    return size


def _work(limit: str) -> str:
    if limit in {"shm", "nofile"}:
        plain = "shm_open" if limit == "shm" else "open"
        return "loader" if importlib.util.find_spec("torch") else plain
    return "mlock" if limit == "memlock" else "allocation"


@contextlib.contextmanager
def _group(limit: str, size: int) -> Iterator[ChildGroup | None]:
    if limit != "memory":
        yield None
        return
    with child_group(size) as group:
        yield group


def _run(limit: str, size: int, work: str, output: Path) -> _Ended:
    words = [sys.executable, "-m", "runner.kit.limits.worker", limit, str(size), work, str(os.getpid())]
    with Child(words, without_launch(os.environ), output) as child:
        if not child.wait(_DEADLINE_S):
            raise RunbookError(f"the work did not end within {_DEADLINE_S:g} s")
        status = child.status
    assert status is not None
    text = read_placed(output, _MOST_OUTPUT).decode(errors="replace")
    lines = [one for one in map(one_line, text.splitlines()) if one]
    found = re.search(r"^MemTotal:\s+(\d{1,18}) kB$", text, re.MULTILINE)
    ended = _Ended(status, lines[-1] if lines else "", int(found[1]) * 1024 if found else None)
    if status == REFUSED:
        raise NotApplicableError(ended.line)
    if status != 0 and not ended.failed:
        raise RunbookError(f"the work ended with status {status}: {ended.line}")
    return ended
