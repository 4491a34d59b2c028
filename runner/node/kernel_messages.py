"""The messages of this node's kernel, read without waiting for new ones.

The log of a node is the same in all its containers. Only lines that the kernel itself wrote have its facility: what a
program writes to /dev/kmsg carries another one, which the kernel enforces (Linux, Documentation/ABI/testing/dev-kmsg).
"""

import ctypes
import errno
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.time_limit import answer_within

KMSG = Path("/dev/kmsg")
KERNEL_FACILITY = 0
_DEADLINE_S = 5.0
# A record is at most 8 KiB; the buffer of a large machine holds 16 MiB.
_RECORD_BYTES, _MOST_BYTES = 16 * 1024, 64 * 2**20
_READ_ALL, _BUFFER_SIZE = 3, 10  # syslog(2)
# `<6>[   12.345678] text`; a thread or a CPU may follow in brackets of its own.
_SYSLOG = re.compile(r"<(\d{1,6})>(?:\[ *(\d{1,12}\.\d{1,9})\](?:\[ *[TC]\d+\])? )?(.*)")
_KMSG_HEAD = re.compile(rb"(\d{1,6}),(\d{1,20}),(\d{1,20}),[^;\n]*;")
# The clock of the log and the one of a program may differ slightly.
_SLACK_S = 5.0


@dataclass(frozen=True)
class KernelMessage:
    """One message of the kernel log.

    Attributes:
        facility: 0 if the kernel wrote it.
        at_s: seconds after the start of the node; None if the log has no times.
        text: without its prefix.
        number: of all messages since the start of the node; None if the log has no numbers.
    """

    facility: int
    at_s: float | None
    text: str
    number: int | None = None


def read_kernel_log(kmsg: Path = KMSG) -> tuple[list[KernelMessage], str | None]:
    """The messages, the oldest first, and what ended the reading early.

    Raises:
        OSError: this user may not read them, or the log is not there; `why_closed` says so in words.
        TimeoutError: no answer within seconds.
    """
    return answer_within(_DEADLINE_S, lambda: _read(kmsg))


def kmsg_message(record: bytes) -> KernelMessage | None:
    r"""One record of /dev/kmsg: `priority,number,microseconds,flags;text\n KEY=value…`; None if it is none."""
    head = _KMSG_HEAD.match(record)
    if head is None:
        return None
    # The low three bits are the priority. Other lines of the record name the device.
    text = record[head.end() :].split(b"\n", 1)[0].decode(errors="replace")
    return KernelMessage(int(head[1]) >> 3, int(head[3]) / 1e6, text, int(head[2]))


def syslog_messages(text: str) -> Iterator[KernelMessage]:
    """The messages in the text of syslog(2); a line without a prefix continues another one."""
    for line in text.split("\n"):
        if found := _SYSLOG.match(line):
            yield KernelMessage(int(found[1]) >> 3, None if found[2] is None else float(found[2]), found[3])


def age_of(message: KernelMessage, now_s: float) -> float | None:
    """Seconds since the message, at `now_s` of CLOCK_MONOTONIC; None if the clock cannot tell."""
    if message.at_s is None or message.at_s > now_s + _SLACK_S:
        # A node that was resumed, or a container with a clock of its own.
        return None
    return now_s - message.at_s


def what_is_missing(messages: Sequence[KernelMessage], since_s: float, now_s: float) -> list[str]:
    """Whether the log holds only a part of the wanted time: new messages overwrite the oldest ones."""
    if elsewhere := why_not_the_nodes(messages):
        return [elsewhere]
    first = messages[0]
    age = age_of(first, now_s)
    if not first.number or age is None or age >= since_s:
        return []
    return [f"begins {age / 60:.0f} min ago; older Xids are in `journalctl -k | grep Xid`"]


def why_not_the_nodes(messages: Sequence[KernelMessage]) -> str | None:
    """Why what was read is not the log of the node; None if it is."""
    if not messages:
        return "is empty, as in some sandboxes; look from the node itself"
    if messages[0].text.startswith("Starting gVisor"):
        return "is not the node's but that of a sandbox (gVisor); look from the node itself"
    return None


def why_closed(error: OSError, kmsg: Path) -> str:
    """Why the log cannot be read, and how it can."""
    if isinstance(error, PermissionError):
        return (
            "this user may not read it (kernel.dmesg_restrict, or a container); run as root, or "
            "`sudo dmesg | grep Xid` on the node"
        )
    return f"{kmsg}: {error.strerror or error}; run `sudo dmesg | grep Xid` on the node"


def _read(kmsg: Path) -> tuple[list[KernelMessage], str | None]:
    """The messages, the oldest first, and what ended the reading early."""
    try:
        descriptor = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # The device may be missing or closed where the system call is allowed.
        return _from_system_call(), None
    try:
        return _from_device(descriptor)
    finally:
        os.close(descriptor)


def _from_device(descriptor: int) -> tuple[list[KernelMessage], str | None]:
    found: list[KernelMessage] = []
    size, deadline = 0, time.monotonic() + _DEADLINE_S / 2
    while size <= _MOST_BYTES and time.monotonic() < deadline:
        try:
            record = os.read(descriptor, _RECORD_BYTES)
        except BlockingIOError:
            return found, None
        except BrokenPipeError:
            # Overwritten meanwhile; the next read gives the oldest message that is left.
            continue
        except OSError as error:
            if error.errno == errno.EINVAL:
                # A record that does not fit is skipped by the kernel only when it is overwritten.
                return found, "has a message that cannot be read; run `sudo dmesg | grep Xid`"
            raise
        if not record:
            return found, None
        size += len(record)
        if message := kmsg_message(record):
            found.append(message)
    return found, "is too long to be read in time; run `journalctl -k | grep Xid`"


def _from_system_call() -> list[KernelMessage]:
    library = ctypes.CDLL(None, use_errno=True)
    size = library.klogctl(_BUFFER_SIZE, None, 0)
    if size < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    buffer = ctypes.create_string_buffer(min(size, _MOST_BYTES))
    length = library.klogctl(_READ_ALL, buffer, len(buffer))
    if length < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return list(syslog_messages(buffer.raw[:length].decode(errors="replace")))
