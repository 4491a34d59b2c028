"""What the events of a kernel log say about each GPU and NVSwitch: one finding for each GPU and cause. Pure.

Cause is told from consequence: an Xid 45 names the earlier Xid, and errors of programs that follow a fault of their GPU
within a minute are its consequences. The driver's own word, Xid 154, decides over the table.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runner.base.words import bracketed
from runner.node.findings import Action, NodeFinding, NotRead
from runner.node.kernel.application import application_findings
from runner.node.kernel.assess import PREEMPTED, RECOVERY, Assessment, assess, previous_xid, recovery_of
from runner.node.kernel.events import UNREAD, KernelEvent
from runner.node.kernel.shown import evidence_of, gpu_name, xid_counts
from runner.node.kernel.sxid_catalogue import SXID_SOURCE, sxid_action, sxid_meaning
from runner.node.kernel.timing import Neighbours, Timing, close_together
from runner.node.kernel.xid_catalogue import APPLICATION, CATALOG, next_step, xid_row

_OF_GPU = frozenset({"xid", "gpu-lost", "gpu-init-failed"})
_DONE = "if that was done since, nothing is left: `--since S` leaves out older lines"
_SETTLED = "the driver has withdrawn its recovery action (Xid 154 to none): nothing is left to do"
_SXID_STEPS = {
    Action.RESET: "end all jobs, then reset all GPUs together: that resets the switches",
    Action.RESTART: "the GPU's NVLink traffic stalled and its job was ended (Xid 45): look for an error of that "
    "program and restart the job; if it comes back, check the partitions in Fabric Manager and reset all GPUs",
}


@dataclass(frozen=True)
class GpuJudgement:
    """What was found about GPUs and switches, and what could not be decided."""

    findings: tuple[NodeFinding, ...]
    not_read: tuple[NotRead, ...]


@dataclass(frozen=True)
class _Gpu:
    """The events of one GPU, sorted into roles.

    Attributes:
        address: PCI address; empty if the lines name none.
        vendor: the newest Xid 154.
        settled: events before a 154 that says none.
        causes: events that ask for something by themselves, errors of programs left out.
        programs: errors of programs that follow no cause.
        followers: Xid 45 and errors of programs that follow a cause.
        alone: Xid 45 that follow nothing in this log.
    """

    address: str
    vendor: KernelEvent | None
    settled: tuple[KernelEvent, ...]
    causes: tuple[Assessment, ...]
    programs: tuple[Assessment, ...]
    followers: tuple[KernelEvent, ...]
    alone: tuple[KernelEvent, ...]


def judge_gpu_events(events: Sequence[KernelEvent], timing: Timing) -> GpuJudgement:
    """The findings about GPUs and switches.

    Args:
        events: of one log, since the last start of the node.
        timing: the time of judging.
    """
    of_gpu: dict[str, list[KernelEvent]] = defaultdict(list)
    for event in events:
        if event.kind in _OF_GPU:
            of_gpu[event.device or ""].append(event)
    gpus = [_sorted(address, own) for address, own in of_gpu.items()]
    findings: list[NodeFinding] = []
    not_read: list[NotRead] = []
    for gpu in gpus:
        findings += _of_gpu(gpu, timing)
        not_read += _undecided(gpu, timing)
    findings += application_findings(
        [one for gpu in gpus for one in gpu.programs],
        {gpu.address: gpu.alone + gpu.followers for gpu in gpus},
        timing,
    )
    findings += _of_switches([one for one in events if one.kind == "sxid"], timing)
    not_read += _unread([one for one in events if one.kind == UNREAD], timing)
    return GpuJudgement(tuple(findings), tuple(not_read))


def _unread(events: Sequence[KernelEvent], timing: Timing) -> list[NotRead]:
    """Lines that report an Xid or SXid and cannot be taken apart."""
    if not events:
        return []
    more = f" and {len(events) - 1} more" if len(events) > 1 else ""
    why = (
        f"“{events[-1].line[:160]}”{more}; give whole lines as `dmesg` prints them, without what `grep` adds"
    )
    recent = any(map(timing.recent, events))
    return [NotRead("lines that report an Xid in a form that is not known here", why, matters=recent)]


def _sorted(address: str, events: Sequence[KernelEvent]) -> _Gpu:
    vendor = next((one for one in reversed(events) if one.code == RECOVERY), None)
    told = recovery_of(vendor) if vendor else None
    settled_until = vendor.order if vendor and told and told[0].action is Action.KEEP else -1
    settled = tuple(one for one in events if one.order <= settled_until)
    active = [one for one in events if one.order > settled_until and one.code not in {PREEMPTED, RECOVERY}]
    preempted = [one for one in events if one.order > settled_until and one.code == PREEMPTED]
    assessed = [assess(one) for one in active]
    causes = [one for one in assessed if one.family != APPLICATION]
    causes += _named_by(preempted, active)
    # What needs nothing to be done explains nothing either.
    grave = Neighbours(one.event for one in causes if one.action is not Action.KEEP)
    programs, followers = [], []
    for one in (one for one in assessed if one.family == APPLICATION):
        follows = grave.near(one.event, before=True)
        followers.append(one.event) if follows else programs.append(one)
    others = Neighbours(active)
    following = [one for one in preempted if previous_xid(one) is not None or others.near(one)]
    led = {one.order for one in following}
    return _Gpu(
        address,
        vendor if settled_until < 0 else None,
        settled,
        tuple(causes),
        tuple(programs),
        (*followers, *following),
        tuple(one for one in preempted if one.order not in led),
    )


def _named_by(preempted: Sequence[KernelEvent], active: Sequence[KernelEvent]) -> list[Assessment]:
    """Xids that an Xid 45 names and whose own lines the log does not have any more."""
    there = {one.code for one in active}
    found: dict[int, Assessment] = {}
    for event in preempted:
        code = previous_xid(event)
        if code is None or code in there or code in found:
            continue
        row = xid_row(code)
        meaning = "named as the cause by Xid 45; its own line is not in this log"
        found[code] = Assessment(
            replace(event, code=code),
            row.family if row else "unknown",
            row.action if row else None,
            f"{row.meaning}; {meaning}" if row else meaning,
            row.source if row else CATALOG,
        )
    return [one for one in found.values() if one.family != APPLICATION]


def _of_gpu(gpu: _Gpu, timing: Timing) -> list[NodeFinding]:
    found = []
    if gpu.settled:
        found.append(_note("xid-settled", gpu.address, gpu.settled, _SETTLED, timing))
    if gpu.alone and not gpu.programs:
        words = "channels of a program that ended or was ended, and no earlier error in this log"
        found.append(_note("xid-45-alone", gpu.address, gpu.alone, words, timing))
    told = recovery_of(gpu.vendor) if gpu.vendor else None
    if gpu.vendor is not None and told is not None:
        return [*found, _by_vendor(gpu, gpu.vendor, told[0].action, told[1], timing)]
    families: dict[str, list[Assessment]] = defaultdict(list)
    for one in gpu.causes:
        if one.action is not None:
            families[one.family].append(one)
    first = next(iter(families), None)
    for family, causes in families.items():
        found.append(_by_table(gpu, causes, gpu.followers if family == first else (), timing))
    return found


def _by_vendor(gpu: _Gpu, vendor: KernelEvent, action: Action, words: str, timing: Timing) -> NodeFinding:
    """One finding: the driver's word covers what came before it. What came later can only make it graver."""
    later = [
        one for one in gpu.causes if one.event.order > vendor.order and not close_together(one.event, vendor)
    ]
    grave = max((one.action for one in later if one.action), key=lambda one: one.rank, default=Action.KEEP)
    decided = action if action.rank >= grave.rank else grave
    events = [*(one.event for one in gpu.causes), *gpu.followers, vendor]
    cause = gpu.causes[0] if gpu.causes else None
    why = f": {cause.name}, {cause.meaning}" if cause else ""
    hint = f"; {cause.hint}" if cause and cause.hint else ""
    return NodeFinding(
        kind=_kind(cause) if cause else "xid-154",
        action=decided,
        where=gpu_name(gpu.address),
        found=f"the driver asks for “{words}”{why} ({xid_counts(events)}, the newest {timing.newest(events)})",
        next=f"{_next(decided, gpu.address)}{hint}",
        source="the driver's recovery action (Xid 154)" if decided is action else later[-1].source,
        evidence=evidence_of(events),
        vendor=f"{words} (Xid 154)",
    )


def _by_table(
    gpu: _Gpu, causes: Sequence[Assessment], followers: Sequence[KernelEvent], timing: Timing
) -> NodeFinding:
    gravest = max(causes, key=lambda one: _aged(one, timing).rank)
    action = _aged(gravest, timing)
    events = [*(one.event for one in causes), *followers]
    counts = xid_counts(events)
    beside = bracketed(
        f"{counts}; the newest {timing.newest(events)}" if len(events) > 1 else timing.newest(events)
    )
    hint = f"; {gravest.hint}" if gravest.hint else ""
    # Drivers without Xid 154 do not tell that a GPU was reset.
    done = "" if not action.ends_service or any(map(timing.recent, events)) else f"; {_DONE}"
    return NodeFinding(
        kind=_kind(gravest),
        action=action,
        where=gpu_name(gpu.address),
        found=f"{gravest.name}: {gravest.meaning}{beside}",
        next=f"{_next(action, gpu.address)}{hint}{done}",
        source=gravest.source,
        evidence=evidence_of(events),
    )


def _aged(one: Assessment, timing: Timing) -> Action:
    """An error that asks for a restart of the job is history when it is old."""
    if one.action is Action.RESTART and not timing.recent(one.event):
        return Action.KEEP
    return one.action or Action.KEEP


def _kind(one: Assessment) -> str:
    return one.event.kind if one.event.code is None else f"xid-{one.event.code}"


def _next(action: Action, address: str) -> str:
    step = next_step(action)
    return step.replace("-i GPU", f"-i {address}") if address else step


def _note(kind: str, address: str, events: Sequence[KernelEvent], words: str, timing: Timing) -> NodeFinding:
    return NodeFinding(
        kind=kind,
        action=Action.KEEP,
        where=gpu_name(address),
        found=f"{xid_counts(events)}: {words}; the newest {timing.newest(events)}",
        next=next_step(Action.KEEP),
        source=f"{CATALOG}: Xid 154, WORKFLOW_XID_45",
        evidence=evidence_of(events),
    )


def _undecided(gpu: _Gpu, timing: Timing) -> list[NotRead]:
    """Xids of which nothing tells what to do. They matter as long as their job may still run."""
    groups: dict[int | None, list[Assessment]] = defaultdict(list)
    for one in gpu.causes:
        if one.action is None:
            groups[one.event.code].append(one)
    found = []
    for code, same in groups.items():
        events = [one.event for one in same]
        what = f"what Xid {code} of {gpu_name(gpu.address)} asks for ({timing.newest(events)})"
        why = f"{same[0].meaning}: “{events[-1].line[:160]}”; ask the vendor, or read `nvidia-smi -q -i {gpu.address}`"
        found.append(
            NotRead(what, why, matters=any(map(timing.recent, events)) and not _decided_by_driver(gpu))
        )
    told = recovery_of(gpu.vendor) if gpu.vendor else None
    if gpu.vendor is not None and told is None:
        what = f"the recovery action of {gpu_name(gpu.address)}"
        found.append(NotRead(what, f"not known here: “{gpu.vendor.line[:160]}”"))
    return found


def _decided_by_driver(gpu: _Gpu) -> bool:
    return gpu.vendor is not None and recovery_of(gpu.vendor) is not None


def _of_switches(events: Sequence[KernelEvent], timing: Timing) -> list[NodeFinding]:
    groups: Mapping[tuple[str, bool], list[KernelEvent]] = defaultdict(list)
    for event in events:
        groups[event.device or "", event.fatal].append(event)
    found = []
    for (address, fatal), same in groups.items():
        gravest = max(same, key=lambda one: _aged_sxid(one, timing).rank)
        action = _aged_sxid(gravest, timing)
        meaning = sxid_meaning(gravest.code or 0) or "a code that is not listed here"
        counts = f"{xid_counts(same)}; " if len(same) > 1 else ""
        severity = "fatal" if fatal else "not fatal"
        found.append(
            NodeFinding(
                kind="sxid-fatal" if fatal else "sxid",
                action=action,
                where=f"NVSwitch {address}",
                found=f"SXid {gravest.code}, {severity}: {meaning} ({gravest.detail}; {counts}{timing.newest(same)})",
                next=_SXID_STEPS.get(action) or next_step(action),
                source=SXID_SOURCE,
                evidence=evidence_of(same),
            )
        )
    return found


def _aged_sxid(event: KernelEvent, timing: Timing) -> Action:
    """A stall of a job that is over needs nothing any more."""
    action = sxid_action(event.code or 0, fatal=event.fatal)
    return Action.KEEP if action is Action.RESTART and not timing.recent(event) else action
