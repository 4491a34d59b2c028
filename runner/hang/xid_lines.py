"""Xids in the kernel log of this node: the driver's messages about faults of its GPUs.

The log of a node is the same in all its containers, and its Xids concern the GPUs of all jobs.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from runner.base.bounds import FACT_CHARACTERS
from runner.base.plain import one_line
from runner.hang.model import Unseen, XidLine
from runner.node.kernel.xid_form import xid_text
from runner.node.kernel_messages import (
    KERNEL_FACILITY,
    KMSG,
    KernelMessage,
    age_of,
    read_kernel_log,
    what_is_missing,
    why_closed,
)

_SOURCE = "kernel log"
_MOST_LINES = 1_000


def xid_lines(node: str, since_s: float, kmsg: Path = KMSG) -> tuple[tuple[XidLine, ...], tuple[Unseen, ...]]:
    """The Xids of the last `since_s` seconds, the newest last, and why others may be missing.

    Does not raise, nor wait for more than seconds.

    Args:
        node: the name of this node, as the reader knows it.
        since_s: age in seconds; a line without a time counts whatever its age.
        kmsg: the kernel log.
    """
    try:
        messages, problem = read_kernel_log(kmsg)
    except TimeoutError as error:
        return (), (_unseen(f"{error} from {kmsg}; read it with `journalctl -k | grep Xid`"),)
    except OSError as error:
        return (), (_unseen(why_closed(error, kmsg)),)
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    problems = [problem] if problem else []
    problems += what_is_missing(messages, since_s, now)
    return find_xids(node, messages, since_s, now), tuple(map(_unseen, problems))


def find_xids(
    node: str, messages: Sequence[KernelMessage], since_s: float, now_s: float
) -> tuple[XidLine, ...]:
    """The Xids among the messages that the kernel wrote in the last `since_s` seconds before `now_s`, in their order.

    Of very many, the newest are kept.
    """
    found = [
        XidLine(node=node, code=xid.code, line=one_line(message.text)[:FACT_CHARACTERS])
        for message in messages
        if message.facility == KERNEL_FACILITY
        and (xid := xid_text(message.text))
        and not (age_of(message, now_s) or 0) > since_s
    ]
    return tuple(found[-_MOST_LINES:])


def _unseen(reason: str) -> Unseen:
    return Unseen(source=_SOURCE, reason=reason[:FACT_CHARACTERS])
