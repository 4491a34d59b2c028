"""Events of a kernel log in words: names, counts and evidence for findings. Pure."""

from collections import Counter
from collections.abc import Sequence

from runner.base.words import counted
from runner.node.kernel.events import KernelEvent

_FIRST, _LAST, _CHARACTERS = 3, 2, 300
_MOST_NAMES = 8


def gpu_name(address: str | None) -> str:
    """`GPU 0000:3b:00.0`."""
    return f"GPU {address}" if address else "a GPU that the line does not name"


def gpu_names(addresses: Sequence[str]) -> str:
    """`GPU 0000:3b:00.0`, or `GPUs 0000:1b:00.0, 0000:3b:00.0`."""
    if len(addresses) == 1:
        return gpu_name(addresses[0])
    more = f" and {len(addresses) - _MOST_NAMES} more" if len(addresses) > _MOST_NAMES else ""
    return f"GPUs {', '.join(sorted(addresses)[:_MOST_NAMES])}{more}"


def xid_counts(events: Sequence[KernelEvent]) -> str:
    """`Xid 149, Xid 45 × 4`: in the order of their first lines."""
    names = Counter(_name(one) for one in sorted(events, key=lambda one: one.order))
    return ", ".join(name if number == 1 else f"{name} × {number}" for name, number in names.items())


def evidence_of(events: Sequence[KernelEvent]) -> tuple[str, ...]:
    """The first lines and the last ones, cut; how many are left out between them."""
    lines = [one.line[:_CHARACTERS] for one in sorted(events, key=lambda one: one.order)]
    left = len(lines) - _FIRST - _LAST
    if left <= 0:
        return tuple(lines)
    return (*lines[:_FIRST], f"… {counted(left, 'more line')} …", *lines[-_LAST:])


def _name(event: KernelEvent) -> str:
    if event.code is None:
        return event.kind.replace("-", " ")
    return f"{'SXid' if event.kind == 'sxid' else 'Xid'} {event.code}"
