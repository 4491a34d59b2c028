"""Runs other programs with a deadline that always holds.

`subprocess.run` waits without limit for a program that it has killed: a program that is stuck in the kernel, for
example on a dead mount, would block the caller.
"""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any

# How long a killed program may take to disappear, in seconds.
_PATIENCE_S = 5.0

# Programs that could not be killed; kept so that they are reaped if they end later.
_stuck: "list[subprocess.Popen[Any]]" = []


def run_program(
    words: Sequence[str],
    *,
    timeout: float,
    given: str | bytes | None = None,
    text: bool = False,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[Any]":
    """Run a program and capture its output, like `subprocess.run(capture_output=True)`.

    Args:
        words: the program and its arguments.
        timeout: seconds until the program is killed; if that does not end it, it is left.
        given: its standard input; default: empty.
        text: whether to decode its output as UTF-8; invalid bytes are replaced.
        env: its environment; default: that of this process.

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
    )
    try:
        out, err = process.communicate(given, timeout)
    except BaseException:
        kill(process)
        raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def kill(process: "subprocess.Popen[Any]", seconds: float = _PATIENCE_S) -> bool:
    """Kill a program and wait at most this long; returns whether it has ended."""
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
