"""Xids in the kernel log of this node: the driver's messages about faults of its GPUs.

The log of a node is the same in all its containers, and its Xids concern the GPUs of all jobs. Only lines that the
kernel itself wrote count: what a program writes to /dev/kmsg carries another facility than the kernel's, which the
kernel enforces (Linux, Documentation/ABI/testing/dev-kmsg).
"""

import ctypes
import errno
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.base.bounds import FACT_CHARACTERS
from runner.base.plain import one_line
from runner.base.time_limit import answer_within
from runner.hang.model import Unseen, XidLine

_KMSG = Path("/dev/kmsg")
_SOURCE = "kernel log"
_DEADLINE_S = 5.0
# A record is at most 8 KiB; the buffer of a large machine holds 16 MiB.
_RECORD_BYTES, _MOST_BYTES = 16 * 1024, 64 * 2**20
_READ_ALL, _BUFFER_SIZE = 3, 10  # syslog(2)
_MOST_LINES = 1_000
_KERNEL = 0
# `NVRM: Xid (PCI:0000:3b:00): 79, …`; older drivers write no `PCI:`, MIG adds ` GPU-I:05`.
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?[0-9A-Fa-f:.]+(?: [^)]{0,40})?\): (\d{1,6})\b")
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


def xid_lines(
    node: str, since_s: float, kmsg: Path = _KMSG
) -> tuple[tuple[XidLine, ...], tuple[Unseen, ...]]:
    """The Xids of the last `since_s` seconds, the newest last, and why others may be missing.

    Does not raise, nor wait for more than seconds.

    Args:
        node: the name of this node, as the reader knows it.
        since_s: age in seconds; a line without a time counts whatever its age.
        kmsg: the kernel log.
    """
    try:
        messages, problem = answer_within(_DEADLINE_S, lambda: _read(kmsg))
    except TimeoutError as error:
        return (), (_unseen(f"{error} from {kmsg}; read it with `journalctl -k | grep Xid`"),)
    except OSError as error:
        return (), (_unseen(_why_closed(error, kmsg)),)
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    problems = [problem] if problem else []
    problems += _lost(messages, since_s, now)
    return find_xids(node, messages, since_s, now), tuple(map(_unseen, problems))


def find_xids(
    node: str, messages: Sequence[KernelMessage], since_s: float, now_s: float
) -> tuple[XidLine, ...]:
    """The Xids among the messages that the kernel wrote in the last `since_s` seconds before `now_s`, in their order.

    Of very many, the newest are kept.
    """
    found = [
        XidLine(node=node, code=int(xid[1]), line=one_line(message.text)[:FACT_CHARACTERS])
        for message in messages
        if message.facility == _KERNEL
        and (xid := _XID.match(message.text))
        and not (_age(message, now_s) or 0) > since_s
    ]
    return tuple(found[-_MOST_LINES:])


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


def _age(message: KernelMessage, now_s: float) -> float | None:
    """Seconds since the message; None if the clock cannot tell."""
    if message.at_s is None or message.at_s > now_s + _SLACK_S:
        # A node that was resumed, or a container with a clock of its own.
        return None
    return now_s - message.at_s


def _lost(messages: Sequence[KernelMessage], since_s: float, now_s: float) -> list[str]:
    """Whether the log holds only a part of the wanted time: new messages overwrite the oldest ones."""
    if not messages:
        return ["is empty, as in some sandboxes; look from the node itself"]
    if messages[0].text.startswith("Starting gVisor"):
        return ["is not the node's but that of a sandbox (gVisor); look from the node itself"]
    first = messages[0]
    age = _age(first, now_s)
    if not first.number or age is None or age >= since_s:
        return []
    return [f"begins {age / 60:.0f} min ago; older Xids are in `journalctl -k | grep Xid`"]


def _why_closed(error: OSError, kmsg: Path) -> str:
    if isinstance(error, PermissionError):
        return (
            "this user may not read it (kernel.dmesg_restrict, or a container); run as root, or "
            "`sudo dmesg | grep Xid` on the node"
        )
    return f"{kmsg}: {error.strerror or error}; run `sudo dmesg | grep Xid` on the node"


def _unseen(reason: str) -> Unseen:
    return Unseen(source=_SOURCE, reason=reason[:FACT_CHARACTERS])


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
