"""What is wrong with the memory and the processes of the control groups of a process. Pure."""

from collections.abc import Iterator, Sequence

from runner.base.units import format_value
from runner.base.words import counted
from runner.node.findings import Action, NodeFinding
from runner.node.host.cgroup_limits import CgroupLimits, CpuLevel, MemoryLevel, PidsLevel
from runner.node.host.limits_reading import Starter
from runner.node.host.limits_remedies import how_to_raise

_KERNEL = "Linux Documentation/admin-guide/cgroup-v2.rst"
_NEARLY_ALL, _OFTEN = 0.95, 0.1


def cgroup_findings(groups: CgroupLimits, starter: Starter, shm: int | None) -> Iterator[NodeFinding]:
    """The findings about the control groups that bind a process.

    A group's counters begin at zero with the group, so with the container, the job or the service: a kill in the
    process's own group is a fact about this container, however old. A group above counts only by its own limit, since
    its other counters belong to other containers too.

    Args:
        groups: the limits, the process's own group first.
        starter: what started the process.
        shm: size of /dev/shm in bytes, whose content counts as memory of the group.
    """
    yield from _kills(groups, starter)
    limits = [one.limit for one in groups.memory if one.limit is not None]
    for level in groups.memory:
        yield from _memory_notes(level, starter)
    if shm is not None and limits and shm > min(limits):
        yield NodeFinding(
            kind="shared-memory-above-memory-limit",
            action=Action.KEEP,
            where="this process",
            found=f"/dev/shm may grow to {format_value(shm, 'B')}, above the memory limit of "
            f"{format_value(min(limits), 'B')}",
            next="nothing now; a job that fills it is killed and gets no error. Set its size below the limit",
            source=f"{_KERNEL}: shared memory is charged to the group",
        )
    for one in groups.pids:
        yield from _pids(one, starter)
    yield from often_throttled(groups.cpu, "if ranks wait for the CPU, raise the CPU limit")


def often_throttled(levels: Sequence[CpuLevel], then: str) -> Iterator[NodeFinding]:
    """Groups that used up their CPU quota in many periods since they were made; `then` is what to do next."""
    for cpu in levels:
        if cpu.throttled is not None and cpu.throttled >= _OFTEN:
            yield NodeFinding(
                kind="cpu-throttled",
                action=Action.KEEP,
                where=cpu.where,
                found=f"it has {cpu.cores:g} cores by its quota and was throttled in {cpu.throttled:.0%} of the "
                "periods since it was made",
                next=then,
                source=f"{_KERNEL}, cpu.max and cpu.stat; chosen here: a tenth of the periods",
            )


def _kills(groups: CgroupLimits, starter: Starter) -> Iterator[NodeFinding]:
    own = next((one for one in groups.memory if one.own), None)
    limits = [one.limit for one in groups.memory if one.limit is not None]
    if own is not None and own.kills:
        whose = (
            f"at a memory limit of {format_value(min(limits), 'B')}"
            if limits
            else "and no limit is visible"
            + (" from here" if groups.hidden else ": the node had no memory left")
        )
        yield NodeFinding(
            kind="killed-for-memory",
            action=Action.RESTART,
            where=own.where,
            found=f"the kernel killed {counted(own.kills, 'process', 'processes')} of it for memory since it was "
            f"made, {whose}" + ("" if own.local else " (groups below are counted too)"),
            next=f"{how_to_raise('memory', starter)}; restart the job: it runs without the killed processes"
            if limits
            else "let fewer jobs run on the node, or give them limits; restart the job",
            source=f"{_KERNEL}, memory.events: oom_kill; the counter begins with the container",
            evidence=(f"oom_kill {own.kills}",),
        )
        return
    for level in groups.memory:
        if not level.own and level.limit is not None and level.hits and level.local:
            yield NodeFinding(
                kind="killed-for-memory",
                action=Action.RESTART,
                where=level.where,
                found=f"its memory limit of {format_value(level.limit, 'B')} left an allocation without memory "
                f"{counted(level.hits, 'time')} since it was made",
                next=f"{how_to_raise('memory', starter)}; restart the job if one of its processes is missing",
                source=f"{_KERNEL}, memory.events.local: oom",
                evidence=(f"oom {level.hits}",),
            )


def _memory_notes(level: MemoryLevel, starter: Starter) -> Iterator[NodeFinding]:
    if level.limit and level.held is not None and level.held >= _NEARLY_ALL * level.limit:
        yield NodeFinding(
            kind="memory-nearly-all",
            action=Action.KEEP,
            where=level.where,
            found=f"{format_value(level.held, 'B')} of {format_value(level.limit, 'B')} memory are held, without the "
            "page cache",
            next=f"before the next allocations: {how_to_raise('memory', starter)}",
            source="chosen here: 95 % of memory that the kernel cannot take back",
        )
    if level.high is not None and level.slowed:
        yield NodeFinding(
            kind="memory-slowed",
            action=Action.KEEP,
            where=level.where,
            found=f"memory.high, {format_value(level.high, 'B')}, was exceeded {counted(level.slowed, 'time')}: the "
            "kernel slows its processes then",
            next="if the job is slow, raise memory.high (systemd MemoryHigh=)",
            source=f"{_KERNEL}, memory.high",
        )


def _pids(level: PidsLevel, starter: Starter) -> Iterator[NodeFinding]:
    nearly = level.limit is not None and level.used is not None and level.used >= _NEARLY_ALL * level.limit
    # A group above counts the refusals in other containers too.
    refused = level.refused if level.own else None
    if not nearly and not refused:
        return
    found = f"{level.used} of {level.limit} possible processes and threads exist" if nearly else ""
    if refused:
        counts = f"the kernel refused to start one {counted(refused, 'time')} since it was made"
        found = f"{found}; {counts}" if found else f"{counts} (limit {level.limit})"
    yield NodeFinding(
        kind="processes-limited",
        action=Action.RESTART,
        where=level.where,
        found=found,
        next=f"{how_to_raise('pids', starter)}; restart the job",
        source="Linux Documentation/admin-guide/cgroup-v2.rst, pids.events"
        if refused
        else "chosen here: 95 % of pids.max",
    )
