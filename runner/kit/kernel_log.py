"""What `kernel_log` does: reads a kernel log from its source, and judges the events in it."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import InputError, RunbookError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.plain import one_line
from runner.base.programs import run_program
from runner.entry.log_forms import Log
from runner.hardware.gpus import why_unreadable
from runner.kit.apart import answer_apart
from runner.kit.gpu_state import recovery_requests
from runner.kit.node_findings import node_findings
from runner.kit.probe import Findings, NotApplicableError
from runner.node.findings import NotRead
from runner.node.kernel.events import kernel_events
from runner.node.kernel.forms import About
from runner.node.kernel.lines import Clock, LogLine, log_lines
from runner.node.kernel.timing import Timing
from runner.node.kernel.verdict import LogRequest, judge_kernel_log
from runner.node.kernel_messages import (
    KERNEL_FACILITY,
    KMSG,
    read_kernel_log,
    what_is_missing,
    why_closed,
    why_not_the_nodes,
)
from runner.node.recovery import RecoveryRequest
from runner.vocabulary.sources import CAPTURED, DRILL

_LARGEST_TEXT = 64 * 2**20
_READER = "python -m runner.probes.kernel_log --from -"
_JOURNAL_S, _JOURNAL_LINES = 20.0, 200_000
_OF_GPUS = frozenset({About.GPU, About.MEMORY, About.LINKS})
_EVERYTHING = "all"
ABOUT = (*(one.value for one in About), _EVERYTHING)


@dataclass(frozen=True)
class _Read:
    """A log as it was read."""

    lines: Sequence[LogLine]
    missing: tuple[NotRead, ...]
    now: Timing | None


def log_findings(arguments: argparse.Namespace) -> Findings:
    """Read a log and judge it.

    Raises:
        InputError: options that contradict each other, or a file that cannot be read.
        NotApplicableError: asked about GPUs, and this host has none.
        RunbookError: the log cannot be read, or holds something that nothing tells how to judge.
    """
    source, read = _source(arguments)
    about = None if arguments.about == _EVERYTHING else About(arguments.about)
    if source in {"kernel", "journal"} and about in _OF_GPUS and why_unreadable("") is None:
        raise NotApplicableError("this host has no NVIDIA GPU; --from FILE reads the log of another node")
    found = read()
    lines = found.lines
    if arguments.watch:
        seen = max((one.at_s for one in lines if one.at_s is not None), default=0.0)
        time.sleep(arguments.watch)
        found = read()
        lines = [one for one in found.lines if one.at_s is not None and one.at_s > seen]
    request = LogRequest(
        about=about,
        source=source,
        since_s=arguments.since,
        drill=source == DRILL,
        now=found.now,
        # A watch asks what comes now; else the driver's own word is above what it wrote in the past.
        requests={} if arguments.watch or source != "kernel" else _requests(),
    )
    judged = judge_kernel_log(lines, request, found.missing)
    effective = {"source": source, "lines": len(lines)}
    return node_findings(
        judged,
        {"about": arguments.about, "since_s": arguments.since, "watch_s": arguments.watch},
        effective,
        about=arguments.about,
        source=source,
    )


def _requests() -> dict[str, RecoveryRequest]:
    """What the driver asks for now; empty if NVML does not tell."""
    try:
        return answer_apart(recovery_requests)
    except RunbookError:
        return {}


def _source(arguments: argparse.Namespace) -> tuple[str, Callable[[], _Read]]:
    chosen = [
        name
        for name, given in (
            ("--from", arguments.log is not None),
            ("--journal", arguments.journal),
            ("--drill", arguments.drill),
        )
        if given
    ]
    if len(chosen) > 1:
        raise InputError(f"{chosen[0]} and {chosen[1]} name different logs; use one of them")
    if arguments.boot is not None and not arguments.journal:
        raise InputError("--boot chooses a start of the node in the journal; add --journal")
    if arguments.watch and (arguments.log is not None or arguments.journal):
        raise InputError("--watch waits for new lines of this node's kernel; leave out --from and --journal")
    for option, value in (("--since", arguments.since), ("--watch", arguments.watch)):
        if value is not None and value < 0:
            raise InputError(f"{option} must not be negative: {value:g}")
    if arguments.log is not None:
        return CAPTURED, lambda: _captured(arguments.log)
    if arguments.journal:
        return "journal", lambda: _journal(arguments.boot or 0)
    return (DRILL, _kernel) if arguments.drill else ("kernel", _kernel)


def _kernel(kmsg: Path = KMSG) -> _Read:
    """This node's kernel log.

    Raises:
        RunbookError: it cannot be read, or what can be read is not the node's.
    """
    try:
        messages, problem = read_kernel_log(kmsg)
    except TimeoutError as error:
        raise RunbookError(f"unknown: the kernel log: {error} from {kmsg}; try `journalctl -k`") from error
    except OSError as error:
        raise RunbookError(f"unknown: the kernel log: {why_closed(error, kmsg)}") from error
    if elsewhere := why_not_the_nodes(messages):
        raise RunbookError(f"unknown: the kernel log {elsewhere}")
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    older = what_is_missing(messages, float("inf"), now)
    missing = [NotRead("older lines of the kernel log", one, matters=False) for one in older]
    if problem:
        missing.append(NotRead("the newest lines of the kernel log", problem))
    lines = [
        LogLine(one_line(m.text), m.facility == KERNEL_FACILITY, _clock(m.at_s), m.at_s) for m in messages
    ]
    return _Read(lines, tuple(missing), Timing({"uptime": now}))


def _clock(at_s: float | None) -> Clock | None:
    return None if at_s is None else "uptime"


def _captured(name: str) -> _Read:
    """A log that was captured, on this node or another one.

    Raises:
        InputError: it cannot be read, or holds no line.
    """
    text, incomplete = _text(name)
    lines = list(log_lines(text))
    if not lines:
        raise InputError(f"{name} holds no line; give the output of `dmesg` or `journalctl -k`")
    alike = any(one.kernel is not None or one.clock is not None for one in lines) or kernel_events(lines)
    why = "no line has a time or a form of the kernel; give the output of `dmesg` or `journalctl -k`"
    missing = [] if alike else [NotRead("the events of the kernel", why)]
    if incomplete:
        missing.append(NotRead("the rest of the log", f"{incomplete}; copy it again, or unpack what is left"))
    return _Read(lines, tuple(missing), None)


def _text(name: str) -> tuple[str, str]:
    """The text of a log, and why that is not all of it."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_LARGEST_TEXT + 1)
            if len(data) > _LARGEST_TEXT:
                raise InputError(
                    f"standard input has more than {_LARGEST_TEXT >> 20} MiB; give its last part"
                )
        else:
            # The path may be a pipe, as in --from <(dmesg).
            data = read_placed(Path(name), _LARGEST_TEXT, pipes=True)
    except (OSError, PlacedFileError) as error:
        why = error.why if isinstance(error, PlacedFileError) else error.strerror
        raise InputError(f"cannot read {name}: {why}") from error
    log = Log(name, (data,), reader=_READER, most=_LARGEST_TEXT)
    return b"".join(log.text()).decode("utf-8", "replace"), log.incomplete


def _journal(boot: int) -> _Read:
    """The kernel's part of the journal since a start of the node; 0 is the running one, -1 the one before.

    Raises:
        RunbookError: there is no journal, no such start, or this user may not read it.
    """
    words = ["journalctl", "--dmesg", f"--boot={boot}", "--output=short-iso", "--no-pager", "--quiet"]
    try:
        done = run_program([*words, f"--lines={_JOURNAL_LINES}"], timeout=_JOURNAL_S)
    except OSError as error:
        raise RunbookError(f"unknown: the journal: journalctl: {error.strerror}; use --from FILE") from error
    except subprocess.TimeoutExpired as error:
        raise RunbookError(f"unknown: the journal: no answer within {_JOURNAL_S:g} s") from error
    lines = list(log_lines(done.stdout.decode("utf-8", "replace")))
    if done.returncode or not lines:
        why = one_line(done.stderr.decode("utf-8", "replace"))[:300] or "it has no line of the kernel"
        raise RunbookError(
            f"unknown: the journal of start {boot}: {why}; run as root, or see journalctl --list-boots"
        )
    # An earlier start is judged as of its end: that is when the node went down.
    return _Read(lines, (), Timing({"wall": time.time()}) if boot == 0 else None)
