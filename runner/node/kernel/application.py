"""Errors of programs on GPUs (Xid 13, 31, …): the program's own, or those of one GPU. Pure.

NVIDIA's catalog (WORKFLOW_XID_13, WORKFLOW_XID_31): faults that repeat on one GPU may be hardware; faults on different
GPUs are the application's.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from runner.node.findings import Action, NodeFinding
from runner.node.kernel.assess import PREEMPTED, Assessment
from runner.node.kernel.events import KernelEvent
from runner.node.kernel.shown import evidence_of, gpu_name, gpu_names, xid_counts
from runner.node.kernel.timing import SUSPECT_S, Timing, close_together
from runner.node.kernel.xid_catalogue import CATALOG, next_step

# Xid 43 follows an error of the same program and tells of no fault of its own.
_FOLLOWS = 43
_PLACE = re.compile(r"\(GPC (\d{1,3}), TPC (\d{1,3})\b")


@dataclass(frozen=True)
class _Burst:
    """Errors of one GPU that belong together: those of one run of a program, with the Xid 45 beside them."""

    gpu: str
    events: tuple[KernelEvent, ...]

    @cached_property
    def codes(self) -> frozenset[int]:
        return frozenset(one.code for one in self.events if one.code not in {None, _FOLLOWS, PREEMPTED})

    @cached_property
    def pids(self) -> frozenset[int]:
        return frozenset(one.pid for one in self.events if one.pid is not None)

    @property
    def programs(self) -> frozenset[str]:
        return frozenset(one.program for one in self.events if one.program is not None)


def application_findings(
    assessments: Sequence[Assessment], companions: Mapping[str, Sequence[KernelEvent]], timing: Timing
) -> list[NodeFinding]:
    """The findings about errors of programs.

    Args:
        assessments: those of the family `application`, of all GPUs; consequences of other errors are not among them.
        companions: the Xid 45 of each GPU, which often name the process where the error does not.
        timing: the time of judging.
    """
    bursts = [
        one
        for gpu, events in _by_gpu(assessments).items()
        for one in _bursts(gpu, events, companions.get(gpu, ()))
    ]
    # What several GPUs report at the same time is one error of one program.
    groups = _shared(bursts)
    suspects = _suspicious([group[0] for group in groups if len(group) == 1], timing)
    found = [_suspect(gpu, alone, timing) for gpu, alone in suspects.items()]
    found += [
        _application(group, timing) for group in groups if len(group) > 1 or group[0].gpu not in suspects
    ]
    return _merged(found)


def _by_gpu(assessments: Iterable[Assessment]) -> dict[str, list[KernelEvent]]:
    found: dict[str, list[KernelEvent]] = defaultdict(list)
    for one in assessments:
        found[one.event.device or ""].append(one.event)
    return found


def _bursts(gpu: str, events: Sequence[KernelEvent], companions: Sequence[KernelEvent]) -> list[_Burst]:
    groups: list[list[KernelEvent]] = []
    for event in sorted((*events, *companions), key=lambda one: one.order):
        last = groups[-1] if groups else None
        if last is not None and close_together(last[-1], event) and not _other_process(last, event):
            last.append(event)
        else:
            groups.append([event])
    own = {one.order for one in events}
    return [_Burst(gpu, tuple(group)) for group in groups if any(one.order in own for one in group)]


def _other_process(group: Sequence[KernelEvent], event: KernelEvent) -> bool:
    """Without times, another process is another run."""
    if event.clock is not None or event.pid is None:
        return False
    pids = {one.pid for one in group if one.pid is not None}
    return bool(pids) and event.pid not in pids


def _shared(bursts: Sequence[_Burst]) -> list[list[_Burst]]:
    """Bursts of the same error on different GPUs at the same time, together; the others each alone."""
    waiting = sorted(bursts, key=lambda one: one.events[0].order)
    groups: list[list[_Burst]] = []
    taken: set[int] = set()
    for place, burst in enumerate(waiting):
        if place in taken:
            continue
        group = [burst]
        for other in range(place + 1, len(waiting)):
            candidate = waiting[other]
            if not _overlap(burst, candidate):
                break
            if (
                other not in taken
                and _same_error(burst, candidate)
                and candidate.gpu not in {one.gpu for one in group}
            ):
                taken.add(other)
                group.append(candidate)
        groups.append(group)
    return groups


def _overlap(first: _Burst, second: _Burst) -> bool:
    """Whether the second, which begins later, begins before the first is over."""
    return any(close_together(one, second.events[0]) for one in (first.events[0], first.events[-1])) or (
        second.events[0].order < first.events[-1].order
    )


def _same_error(first: _Burst, second: _Burst) -> bool:
    return bool(first.codes & second.codes) or not (first.codes or second.codes)


def _suspicious(alone: Sequence[_Burst], timing: Timing) -> dict[str, list[_Burst]]:
    """By GPU, the errors of different processes that this GPU alone had; only where there are two such processes."""
    groups: dict[tuple[str, int], list[_Burst]] = defaultdict(list)
    for one in alone:
        if one.gpu and one.pids and timing.recent(one.events[0], SUSPECT_S):
            for code in one.codes:
                groups[one.gpu, code].append(one)
    found: dict[str, list[_Burst]] = {}
    for (gpu, _), having in sorted(groups.items(), key=lambda one: one[0]):
        if any(not having[0].pids & other.pids for other in having[1:]):
            found.setdefault(gpu, having)
    return found


def _suspect(gpu: str, bursts: Sequence[_Burst], timing: Timing) -> NodeFinding:
    events = [event for one in bursts for event in one.events]
    places = [
        frozenset((found[1], found[2]) for one in burst.events if (found := _PLACE.search(one.detail)))
        for burst in bursts
    ]
    shared = frozenset.intersection(*places) if places else frozenset()
    where = "".join(f", each time in GPC {gpc}, TPC {tpc}" for gpc, tpc in sorted(shared)[:1])
    programs = sorted({name for one in bursts for name in one.programs})
    if len(programs) > 1:
        action, step = Action.DRAIN, "take the node out of service and run `dcgmi diag -r 3` on this GPU"
    else:
        # A program that is started again and again looks the same.
        recent = any(map(timing.recent, events))
        action = Action.RESTART if recent else Action.KEEP
        name = programs[0] if programs else "the program"
        step = f"run {name} on another GPU; if it works there, drain the node and run `dcgmi diag -r 3`"
    return NodeFinding(
        kind="xid-repeats-on-one-gpu",
        action=action,
        where=gpu_name(gpu),
        found=f"{xid_counts(events)} in {len(bursts)} runs, and on no other GPU{where}; "
        f"the newest {timing.newest(events)}",
        next=step,
        source=f"{CATALOG}: WORKFLOW_XID_13, WORKFLOW_XID_31 (repeats on one GPU: diagnose the hardware); "
        "chosen here: drain only for different programs",
        evidence=evidence_of(events),
    )


def _application(group: Sequence[_Burst], timing: Timing) -> NodeFinding:
    events = [event for one in group for event in one.events]
    gpus = [one.gpu for one in group]
    recent = any(timing.recent(one) for one in events)
    programs = sorted({one.program for one in events if one.program})
    by = f" of {', '.join(programs[:3])}" if programs else ""
    several = (
        "on several GPUs at the same time, so it is the program"
        if len(gpus) > 1
        else "an error of the program"
    )
    return NodeFinding(
        kind="xid-application",
        action=Action.RESTART if recent else Action.KEEP,
        where=gpu_names(gpus),
        found=f"{xid_counts(events)}{by}, {several}; the newest {timing.newest(events)}",
        next=next_step(Action.RESTART if recent else Action.KEEP),
        source=f"{CATALOG}: RESTART_APP; IGNORE for Xid 43",
        evidence=evidence_of(events),
    )


def _merged(findings: Sequence[NodeFinding]) -> list[NodeFinding]:
    """Old errors of one GPU are one note."""
    found: list[NodeFinding] = []
    notes: dict[str, list[NodeFinding]] = defaultdict(list)
    for one in findings:
        if one.action is Action.KEEP:
            notes[one.where].append(one)
        else:
            found.append(one)
    for same in notes.values():
        more = f" (and {len(same) - 1} earlier)" if len(same) > 1 else ""
        last = same[-1]
        found.append(
            NodeFinding(
                kind=last.kind,
                action=last.action,
                where=last.where,
                found=last.found + more,
                next=last.next,
                source=last.source,
                evidence=last.evidence,
            )
        )
    return found
