"""Ends the processes of a block whose runner is gone: killed, out of memory, aborted. Standard library alone.

The runner ends whatever a block leaves behind, but nobody does that for a runner that died. So it starts a small
process before the first block, tells it which block runs, and keeps a socket open to it, which the system closes when
the runner dies, however it dies.
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

from runner.launch.holders import holders
from runner.launch.processes import descendants_of, environment_has, every, is_own, stat_of

TOKEN = "RUNBOOK_STEP_TOKEN"  # noqa: S105 - the name of a variable that marks processes, no secret
NAME = "runbook-watch"
_MOST_BYTES = 4096
_MOST_DESCRIPTORS = 8
# How long processes that were killed are waited for, in seconds, and how often they are looked at.
_PATIENCE_S = 60.0
_POLL_S, _LONGEST_POLL_S = 0.01, 1.0
# How long the watchdog may take to start and to answer.
_ANSWER_S = 30.0
# What ends a runner in an orderly way: the runner acts on it, and the watchdog waits for what comes of that.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_lock = threading.Lock()
_dog: "tuple[int, socket.socket] | None" = None


def begins(token: str, locks: Iterable[int] = ()) -> None:
    """A block is about to start, marked by this token. The watchdog holds its locks as long as the block runs."""
    _tell(f"+ {token}", list(locks))


def has_shell(token: str, shell: int) -> None:
    """The block's shell, the leader of its session, runs under this pid."""
    stat = stat_of(shell)
    if stat is not None:
        _tell(f"= {token} {shell} {stat.started}", [])


def is_over(token: str) -> None:
    """Nothing of the block is left, or what is left cannot be ended."""
    _tell(f"- {token}", [], answered=True)


def pid() -> int | None:
    """The watchdog's, a child of this process that belongs to no block."""
    return _dog[0] if _dog else None


def _tell(message: str, descriptors: list[int], *, answered: bool = False) -> None:
    global _dog  # noqa: PLW0603 - one for the process, whoever runs blocks
    with _lock:
        # A watchdog that was ended is replaced; where none can be started, a block runs without.
        for _ in range(2):
            with contextlib.suppress(OSError):
                _dog = _dog or _started()
                # A block may have stopped it, and every block would wait for its answer.
                os.kill(_dog[0], signal.SIGCONT)
                socket.send_fds(_dog[1], [message.encode()], descriptors)
                # Its locks are closed when it says so, and another run may take the node.
                if not answered or _dog[1].recv(1):
                    return
            if _dog is not None:
                # Before its socket is closed, since it would take that for the end of this process.
                with contextlib.suppress(OSError):
                    os.kill(_dog[0], signal.SIGKILL)
                _dismiss()


@atexit.register
def _dismiss() -> None:
    """Let the watchdog go, and reap it: where a container has no init, nobody else does."""
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
    program = (
        f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); import {__name__} as w; w.watch()"
    )
    # One that does not listen any more is given up like one that is gone.
    ours.settimeout(_ANSWER_S)
    with theirs:
        words = [sys.executable, "-I", "-S", "-c", program]
        null = [(os.POSIX_SPAWN_OPEN, out, os.devnull, os.O_WRONLY, 0) for out in (1, 2)]
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), *null]
        # Not in the foreground of a terminal, where Ctrl-C would end it.
        number = os.posix_spawn(sys.executable, words, os.environ, file_actions=actions, setsid=True)
    return number, ours


@dataclass(frozen=True)
class _Block:
    """A block that runs: its mark, its shell and when that started (0: not told yet), and the locks it holds."""

    token: str
    locks: tuple[int, ...]
    shell: int = 0
    started: int = 0


def watch() -> None:
    """The watchdog itself: learns of blocks on standard input, and ends those that run when that is closed."""
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
            with contextlib.suppress(OSError):
                os.kill(one, signal.SIGKILL)
        time.sleep(poll)
        poll = min(poll * 2, _LONGEST_POLL_S)


def _left(blocks: tuple[_Block, ...]) -> Iterator[int]:
    """Processes of the blocks: of their session, with a lock of theirs or their mark, and what those have started."""
    processes = [stat for stat in every() if stat.lives and stat.pid != os.getpid()]
    for block in blocks:
        leader = stat_of(block.shell)
        # A number that another process has by now is no longer the block's session.
        if block.shell and (leader is None or leader.started == block.started):
            yield from _with_begun({stat.pid for stat in processes if stat.session == block.shell})
        for lock in block.locks:
            yield from _with_begun({stat.pid for stat in holders(lock)})
    # Last, and of this user's own alone: what others call their environment may be mapped from a file that never
    # answers whoever reads it.
    own = [stat.pid for stat in processes if is_own(stat.pid)]
    for mark in (f"{TOKEN}={block.token}" for block in blocks):
        yield from _with_begun({pid for pid in own if environment_has(pid, mark)})


def _with_begun(found: set[int]) -> set[int]:
    begun = {child for one in found for child in descendants_of(one)}
    return found | {child for child in begun if (stat := stat_of(child)) is not None and stat.lives}
