"""A save is killed at a chosen point of its progress, and a resume then chooses a checkpoint."""

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from runner.base.errors import RunbookError
from runner.base.plain import one_line
from runner.guards.checkpoint import MANIFEST
from runner.kit.children import without_launch
from runner.kit.storage.formats import CheckpointFormat, State
from runner.kit.storage.resume import PREFIX, Resumes
from runner.kit.storage.saver import save_step

# Of four kills of the guard, one hits it after its manifest is there.
_EVERY = 4


class Saver:
    """The program `runner.kit.storage.saver`, within the context."""

    def __init__(self, words: Sequence[str], scratch: Path) -> None:
        self._words, self._scratch, self._errors = words, scratch, scratch / "errors"
        self._child: int | None = None

    def __enter__(self) -> Self:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "runner.kit.storage.saver", *self._words),
                    *(str(os.getpid()), str(self._scratch)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=without_launch(os.environ),
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            # It must not write any more when its folder is removed.
            os.kill(self._child, signal.SIGKILL)
            self._line()
        self._process.kill()
        self._process.communicate()

    def killed_when(self, root: Path, reached: Callable[[], bool]) -> None:
        """Let a child save below the root, and kill it as soon as a point is reached.

        Raises:
            RunbookError: the child ended by itself.
        """
        assert self._process.stdin
        self._process.stdin.write(os.fsencode(root) + b"\n")
        self._process.stdin.flush()
        self._child = int(self._line())
        while not reached():
            if self._has_line():
                self._child = None
                raise RunbookError(f"the process that saves ended by itself: {self._last_error()}")
        os.kill(self._child, signal.SIGKILL)
        ended = self._line()
        self._child = None
        if ended != f"ended {-signal.SIGKILL}":
            raise RunbookError(f"the process that saves was not killed: {self._last_error()}")

    def _has_line(self) -> bool:
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline().decode(errors="replace")
        if not line:
            raise RunbookError(f"the process that saves did not begin: {self._last_error()}")
        return line.strip()

    def _last_error(self) -> str:
        lines = self._errors.read_text(errors="replace").splitlines()
        return one_line(lines[-1]) if lines else "it said nothing"


def kill_saves(
    form: CheckpointFormat,
    folder: Path,
    states: Sequence[State],
    words: Sequence[str],
    repeat: int,
) -> Resumes:
    """Kill `repeat` saves, each at another point, and count what resumes take.

    Args:
        form: the format.
        folder: an empty folder on the storage.
        states: what even and odd steps save.
        words: the first arguments of the saver: format, writer, names, bytes, seed.
        repeat: how many.

    Raises:
        RunbookError: a save failed by itself.
    """
    guarded, same = words[1] == "guarded", words[2] == "same"
    resumes, scratch, root = Resumes(), folder / "scratch", folder / "root"
    scratch.mkdir()

    def saved(step: int) -> Sequence[State]:
        return states if same else (states[step % 2],)

    with Saver(words, scratch) as saver:
        for number in range(repeat):
            root.mkdir()
            save_step(form, root / f"{PREFIX}1", states[1], guarded=guarded)
            before = _files(root)
            size = sum(written for _, written in before.values())
            # From a twentieth to all of the bytes: what comes after them is hit too.
            enough = size * (number + 1) / repeat
            if guarded and number % _EVERY == _EVERY - 1:
                saver.killed_when(root, lambda: _has_manifest(root))
            else:
                saver.killed_when(root, lambda: _grown(root, before) >= enough)  # noqa: B023 - called in this turn
            resumes.count(form, root, saved, guarded=guarded)
            shutil.rmtree(root)
    shutil.rmtree(scratch)
    return resumes


def _files(root: Path) -> Mapping[str, tuple[int, int]]:
    """Time of the last write and size of each file, by its path; they may vanish meanwhile."""
    found = {}
    for place, _, names in os.walk(root):
        for name in names:
            try:
                state = (Path(place) / name).lstat()
            except FileNotFoundError:
                continue
            found[f"{place}/{name}"] = (state.st_mtime_ns, state.st_size)
    return found


def _grown(root: Path, before: Mapping[str, tuple[int, int]]) -> int:
    return sum(size for path, (at, size) in _files(root).items() if before.get(path) != (at, size))


def _has_manifest(root: Path) -> bool:
    return any(one.name != f"{PREFIX}1" and (one / MANIFEST).exists() for one in root.iterdir())
