"""Kills the processes of a block whose runner died: killed, out of memory, aborted. Standard library only.

The runner kills the processes that a block leaves behind, but a dead runner cannot. So it starts a small process before
the first block, tells it which block is running, and keeps a socket open to it, which the system closes when the runner
dies for any reason.
"""

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from runner.base.processes import Stat, in_session, send, stat_of, with_descendants, with_mark
from runner.run.holders import holders

TOKEN = "RUNBOOK_STEP_TOKEN"  # noqa: S105 - the name of a variable that marks processes, not a secret
NAME = "runbook-watch"
_MOST_BYTES = 4096
_MOST_DESCRIPTORS = 8
# How long to wait for killed processes, and the poll interval, in seconds.
_PATIENCE_S = 60.0
_POLL_S, _LONGEST_POLL_S = 0.01, 1.0
# How long the watchdog may take to start and to answer, in seconds.
_ANSWER_S = 30.0
# Signals that end a runner in an orderly way: the runner handles them, and the watchdog waits for that.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_lock = threading.Lock()
_dog: "tuple[int, socket.socket] | None" = None


def begins(token: str, locks: Iterable[int] = ()) -> None:
    """Announce a block, marked by this token. The watchdog holds its locks while the block runs."""
    _tell(f"+ {token}", list(locks))


def has_shell(token: str, shell: int) -> None:
    """Announce the pid of the block's shell, which leads its session."""
    stat = stat_of(shell)
    if stat is not None:
        _tell(f"= {token} {shell} {stat.started}", [])


def is_over(token: str) -> None:
    """Announce that no process of the block is left, or that the rest cannot be killed."""
    _tell(f"- {token}", [], answered=True)


def pid() -> int | None:
    """The pid of the watchdog, a child of this process that belongs to no block."""
    return _dog[0] if _dog else None


def _tell(message: str, descriptors: list[int], *, answered: bool = False) -> None:
    global _dog  # noqa: PLW0603 - one watchdog per process
    with _lock:
        # A dead watchdog is replaced; if none can be started, the block runs without one.
        for _ in range(2):
            with contextlib.suppress(OSError):
                _dog = _dog or _started()
                # A block may have sent it SIGSTOP; then every block would wait for its answer.
                os.kill(_dog[0], signal.SIGCONT)
                socket.send_fds(_dog[1], [message.encode()], descriptors)
                # It has closed its locks when it answers, so another run may use the node.
                if not answered or _dog[1].recv(1):
                    return
            if _dog is not None:
                # Before its socket is closed, because it would interpret that as the death of this process.
                with contextlib.suppress(OSError):
                    os.kill(_dog[0], signal.SIGKILL)
                _dismiss()


@atexit.register
def _dismiss() -> None:
    """Stop the watchdog and reap it: in a container without init, no other process does."""
    global _dog  # noqa: PLW0603 - as above
    if _dog is not None:
        number, connection = _dog
        _dog = None
        connection.close()
        with contextlib.suppress(OSError):
            os.kill(number, signal.SIGCONT)
        deadline = time.monotonic() + _LONGEST_POLL_S
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(number, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                time.sleep(_POLL_S / 10)


def _started() -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    root = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.append({root!r}); import {__name__} as dog; dog.run_watchdog()"
    # A watchdog that does not read any more is given up like a dead one.
    ours.settimeout(_ANSWER_S)
    with theirs:
        words = [sys.executable, "-I", "-S", "-c", program]
        null = [(os.POSIX_SPAWN_OPEN, out, os.devnull, os.O_WRONLY, 0) for out in (1, 2)]
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), *null]
        # Not in the foreground process group of a terminal, where Ctrl-C would end it.
        number = os.posix_spawn(sys.executable, words, os.environ, file_actions=actions, setsid=True)
    return number, ours


@dataclass(frozen=True)
class _Block:
    """A running block: its token, its shell and the shell's start time (0: not known yet), and its locks."""

    token: str
    locks: tuple[int, ...]
    shell: int = 0
    started: int = 0


def run_watchdog() -> None:
    """The watchdog itself: receives blocks on standard input, and kills the running ones when that is closed."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME, encoding="ascii")
    blocks: dict[str, _Block] = {}
    with socket.socket(fileno=0) as runner, contextlib.suppress(ConnectionError):
        while True:
            message, descriptors, _, _ = socket.recv_fds(runner, _MOST_BYTES, _MOST_DESCRIPTORS)
            if not message:
                break
            _note(blocks, message.decode().split(), tuple(descriptors))
            if message.startswith(b"-"):
                runner.send(b"-")
    _end(tuple(blocks.values()))


def _note(blocks: dict[str, _Block], words: list[str], descriptors: tuple[int, ...]) -> None:
    sign, token, *numbers = words
    if sign == "+":
        blocks[token] = _Block(token, descriptors)
    elif sign == "=" and token in blocks:
        shell, started = map(int, numbers)
        blocks[token] = replace(blocks[token], shell=shell, started=started)
    elif sign == "-" and token in blocks:
        for descriptor in blocks.pop(token).locks:
            os.close(descriptor)


def _end(blocks: tuple[_Block, ...]) -> None:
    deadline, poll, left = time.monotonic() + _PATIENCE_S, _POLL_S, True
    while left and time.monotonic() < deadline:
        left = False
        for one in _left(blocks):
            left = True
            send(one, signal.SIGKILL)
        time.sleep(poll)
        poll = min(poll * 2, _LONGEST_POLL_S)


def _left(blocks: tuple[_Block, ...]) -> Iterator[Stat]:
    """Processes of the blocks: in their session, with their lock or token, and the descendants of these."""
    for block in blocks:
        if block.shell:
            yield from _and_begun(in_session(block.shell, block.started))
        for lock in block.locks:
            yield from _and_begun(holders(lock))
    # Last: reading an environment may block.
    for block in blocks:
        yield from _and_begun(with_mark(f"{TOKEN}={block.token}"))


def _and_begun(found: Iterable[Stat]) -> list[Stat]:
    return with_descendants(stat.pid for stat in found)
