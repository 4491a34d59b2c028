"""Runs other programs to their end or a deadline that holds.

`subprocess.run` waits without end for a program that it has killed: one that waits in the kernel, for a mount that is
gone say, would hold whoever asked it.
"""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any

# How long a killed program may take to be gone, in seconds.
_PATIENCE_S = 5.0

# Programs that did not go: kept, so that they are reaped should they end after all.
_stuck: "list[subprocess.Popen[Any]]" = []


def run_program(
    words: Sequence[str],
    *,
    timeout: float,
    given: str | bytes | None = None,
    text: bool = False,
    env: Mapping[str, str] | None = None,
    start_new_session: bool = False,
) -> "subprocess.CompletedProcess[Any]":
    """Run a program and take what it prints, as `subprocess.run(capture_output=True)` does.

    Args:
        words: the program and its arguments.
        timeout: seconds; the program is killed at it, and left where that does not end it.
        given: its standard input; nothing when left out.
        text: what it prints is text, and bytes that are none of UTF-8 are replaced.
        env: its environment; this process's when left out.
        start_new_session: out of reach of a Ctrl-C at the terminal.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it has not ended in time.
    """
    process: subprocess.Popen[Any] = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=text,
        errors="replace" if text else None,
        start_new_session=start_new_session,
    )
    try:
        out, err = process.communicate(given, timeout)
    except BaseException:
        kill(process)
        raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def kill(process: "subprocess.Popen[Any]", seconds: float = _PATIENCE_S) -> bool:
    """Kill a program, wait so long, and leave it where that was not enough; whether it is gone."""
    process.kill()
    pipes: list[IO[Any] | None] = [process.stdin, process.stdout, process.stderr]
    for pipe in filter(None, pipes):
        with contextlib.suppress(OSError):
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    _stuck.append(process)
    return False
