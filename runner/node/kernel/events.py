"""The events in a kernel log: Xids, SXids, and the other forms, each with its GPU or device, process and time. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runner.node.kernel.forms import FORMS, About
from runner.node.kernel.lines import Clock, LogLine
from runner.node.kernel.xid_catalogue import xid_row
from runner.node.kernel.xid_form import XidText, pci_address, xid_text

DRILL_MARK = "runbook drill: "
"""Begins a line that a drill wrote into the kernel log; such a line never counts as the kernel's own."""
DRILL_PROGRAM = "runbook-drill"
"""The name of the process that a drill lets the kernel kill; its end is no event of the node."""

_SXID = re.compile(
    r"nvidia-nvswitch\d{1,3}: SXid \(PCI:(?P<device>[0-9A-Fa-f:.]{4,20})\): (?P<code>\d{1,6}), "
    r"(?P<severity>Fatal|Non-fatal)(?:, (?:Link (?P<link>-?\d{1,4}) ?)?(?P<text>.{0,200}))?"
)
# `NVRM: The NVIDIA GPU 0000:9a:00.0 (PCI ID: …) installed in this system has`, and the rest some lines later.
_NAMED = re.compile(r"NVRM: The NVIDIA GPU (?P<device>[0-9A-Fa-f:.]{4,20})\b(?P<rest>.*)")
_LOST = "fallen off the bus"
_LINES_BETWEEN = 3
_XID_ABOUT = {
    "memory": About.MEMORY,
    "link": About.LINKS,
    "bus": About.PCIE,
    "firmware": About.DRIVER,
    "init": About.DRIVER,
    "software": About.DRIVER,
}
# What only a report of an Xid or SXid has. `grep` and chats put file names and marks before the text of a line, and a
# paste may cut it: what is not read must not look like a log without one.
# The second and third line of an SXid repeat its code.
_REPORT = re.compile(
    r"NVRM: Xid\b|nvidia-nvswitch\d{1,3}: SXid\b(?! \([^)]{0,40}\): \d{1,6}, (?:Severity|Data)\b)",
    re.IGNORECASE,
)
UNREAD = "xid-unread"
"""The kind of an event whose line reports an Xid or SXid in a form that is not known here."""
_NEEDLES = re.compile("|".join(sorted({re.escape(one.needle) for one in FORMS} | {"NVRM: ", "SXid", _LOST})))


@dataclass(frozen=True, kw_only=True)
class KernelEvent:
    """One event.

    Attributes:
        kind: `xid`, `sxid`, `xid-unread`, or the kind of a form, such as `aer-fatal`.
        order: place in the log.
        line: its text.
        about: what it matters to.
        code: of an Xid or SXid.
        device: PCI address of the GPU, switch or device; None if the line names none.
        pid, program: the process that it names.
        detail: the part of the text that differs: `Link 28 LTSSM Fault Up`.
        fatal: an SXid's own word.
        xid: the parts of an Xid.
        clock, at_s: as of its line.
    """

    kind: str
    order: int
    line: str
    about: frozenset[About]
    code: int | None = None
    device: str | None = None
    pid: int | None = None
    program: str | None = None
    detail: str = ""
    fatal: bool = False
    xid: XidText | None = None
    clock: Clock | None = None
    at_s: float | None = None


def kernel_events(lines: Iterable[LogLine], *, drill: bool = False) -> list[KernelEvent]:
    """The events of a log, in its order.

    Args:
        lines: of one log. Those that another program wrote do not count.
        drill: only lines that a program wrote with `DRILL_MARK` count, and no others.
    """
    found: list[KernelEvent] = []
    lost = _Lost()
    for order, line in enumerate(lines):
        text = _counted(line, drill=drill)
        if text is None or not _NEEDLES.search(text):
            continue
        found += [one for one in _events(text, line, order, lost) if one.program != DRILL_PROGRAM]
    return found


def _counted(line: LogLine, *, drill: bool) -> str | None:
    """The text of a line that counts."""
    if drill:
        marked = line.kernel is not True and line.text.startswith(DRILL_MARK)
        return line.text.removeprefix(DRILL_MARK) if marked else None
    return None if line.kernel is False else line.text


class _Lost:
    """Joins the lines by which a driver tells at its start that a GPU does not answer."""

    def __init__(self) -> None:
        self._device: str | None = None
        self._until = -1

    def device(self, text: str, order: int) -> str | None:
        """The GPU if this line completes the sentence."""
        if named := _NAMED.match(text):
            self._device, self._until = pci_address(named["device"]), order + _LINES_BETWEEN
        if _LOST in text and self._device and order <= self._until and (named or text.startswith("NVRM: ")):
            device, self._device = self._device, None
            return device
        return None


def _events(text: str, line: LogLine, order: int, lost: _Lost) -> Iterator[KernelEvent]:
    if xid := xid_text(text):
        row = xid_row(xid.code)
        about = {About.GPU} | ({_XID_ABOUT[row.family]} if row and row.family in _XID_ABOUT else set())
        yield KernelEvent(
            kind="xid",
            order=order,
            line=text,
            about=frozenset(about),
            code=xid.code,
            device=xid.gpu,
            pid=xid.pid,
            program=xid.program,
            detail=xid.text,
            xid=xid,
            clock=line.clock,
            at_s=line.at_s,
        )
    elif sxid := _SXID.match(text):
        link = f"link {sxid['link']}, " if sxid["link"] else ""
        yield KernelEvent(
            kind="sxid",
            order=order,
            line=text,
            about=frozenset({About.GPU, About.LINKS}),
            code=int(sxid["code"]),
            device=pci_address(sxid["device"]),
            detail=f"{link}{sxid['text'] or ''}",
            fatal=sxid["severity"] == "Fatal",
            clock=line.clock,
            at_s=line.at_s,
        )
    elif device := lost.device(text, order):
        about = {About.GPU, About.PCIE}
        yield KernelEvent(
            kind="gpu-lost",
            order=order,
            line=text,
            about=frozenset(about),
            device=device,
            clock=line.clock,
            at_s=line.at_s,
        )
    elif _REPORT.search(text) and DRILL_MARK not in text:
        yield KernelEvent(
            kind=UNREAD,
            order=order,
            line=text,
            about=frozenset({About.GPU, About.MEMORY, About.LINKS, About.PCIE, About.DRIVER}),
            clock=line.clock,
            at_s=line.at_s,
        )
    else:
        yield from _of_a_form(text, line, order)


def _of_a_form(text: str, line: LogLine, order: int) -> Iterator[KernelEvent]:
    for form in FORMS:
        if form.needle not in text or (found := form.pattern.match(text)) is None:
            continue
        parts = found.groupdict()
        device = parts.get("device")
        yield KernelEvent(
            kind=form.kind,
            order=order,
            line=text,
            about=form.about,
            device=pci_address(device) if device else None,
            pid=int(parts["pid"]) if parts.get("pid") else None,
            program=parts.get("program"),
            detail=parts.get("detail") or "",
            clock=line.clock,
            at_s=line.at_s,
        )
        return
