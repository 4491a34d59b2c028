"""Whether storage holds a job up: full file systems, NFS requests that wait, processes that are blocked. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.base.plain import one_line
from runner.base.units import format_value
from runner.base.words import counted
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.host.group import HostGroup, HostReading
from runner.node.host.mountstats import NfsMount, RpcCount
from runner.node.host.storage_reading import BlockedTask, StorageFacts, StorageSpace, read_storage

_RULES = "appleparan/Algalon, monitoring/rules/storage-nfs.yml, 2026"
# NfsQueueTimeDominant: above this share, with so many requests a second, for 15 minutes.
_QUEUE_SHARE, _QUEUE_RATE, _QUEUE_FOR_S = 0.9, 10.0, 900.0
# NfsOperationSlow: the mean answer of an operation, for 10 minutes.
_SLOW_S, _SLOW_FOR_S = 0.1, 600.0
_LITTLE, _NEARLY = 0.05, 0.9
# Within a shorter time a process may have waited for one large write.
_BLOCKED_FOR_S = 10.0
_NUMBERS = ("WRITE", "READ", "GETATTR")
_NAMED = 3


def judge_storage(facts: StorageFacts) -> NodeVerdict:
    """The verdict on one reading. Counts of NFS are totals since the mount: they are numbers, and no findings."""
    findings = [*_full(facts.spaces), *_dirty(facts)]
    blocked = facts.blocked or ()
    if blocked:
        findings.append(_blocked_now(blocked))
    not_read = facts.not_read
    if not facts.nfs_known:
        not_read = (*not_read, NotRead("NFS requests", "mountstats cannot be read or is not there"))
    return NodeVerdict(
        findings=tuple(findings),
        not_read=not_read,
        numbers=(*_numbers(facts.nfs), *_blocked_number(facts.blocked)),
        judged=_judged(facts),
        facts=_facts(facts),
        settings=_settings(facts),
    )


def judge_storage_change(readings: Sequence[HostReading[StorageFacts]]) -> NodeVerdict:
    """The verdict on the last reading, and on NFS requests and blocked processes since the first."""
    first, last = readings[0], readings[-1]
    now, seconds = judge_storage(last.facts), max(last.at_s, 1e-3)
    before = {one.place: one for one in first.facts.nfs}
    changed = [_since(before[one.place], one) for one in last.facts.nfs if one.place in before]
    stuck = _stuck(first.facts.blocked or (), last.facts.blocked or ())
    findings = [one for one in now.findings if one.kind != "blocked-now"]
    for mount in changed:
        findings += _requests(mount, seconds, last.facts)
    if stuck:
        findings.append(_blocked_long(stuck, seconds))
    return replace(
        now,
        findings=tuple(findings),
        numbers=(*_numbers(changed), *(_blocked_number(stuck) if last.facts.blocked is not None else ())),
        judged=f"{now.judged}, and their changes in {seconds:.0f} s",
    )


def _full(spaces: Sequence[StorageSpace]) -> Iterator[NodeFinding]:
    for one in spaces:
        if one.silent:
            yield NodeFinding(
                kind="storage-silent",
                action=Action.RESTART,
                where=one.place,
                found=f"the {one.kind} file system does not answer within 5 s",
                next="look at its server and at the network to it; processes that wait for it go on when it answers",
                source="chosen here: statfs of a server that is up takes milliseconds",
            )
            continue
        for what, left, size in (("bytes", one.free, one.size), ("inodes", one.inodes_free, one.inodes)):
            if not size or left > _LITTLE * size:
                continue
            shown = format_value(left, "B") if what == "bytes" else f"{left} inodes"
            none = not left and one.used
            yield NodeFinding(
                kind=f"no-{what}-left" if not left else f"few-{what}-left",
                action=Action.RESTART if none else Action.KEEP,
                where=one.place,
                found=f"{shown} of {format_value(size, 'B') if what == 'bytes' else size} left for users",
                next="remove old checkpoints and what killed saves left; a save that finds no room leaves a torn file",
                source="chosen here: the process works there and can save nothing"
                if none
                else "chosen here: 5 %; compare it with one checkpoint",
            )


def _dirty(facts: StorageFacts) -> Iterator[NodeFinding]:
    if facts.dirty is None or not facts.dirty_limit or facts.dirty < _NEARLY * facts.dirty_limit:
        return
    yield NodeFinding(
        kind="writers-held",
        action=Action.KEEP,
        where="node",
        found=f"{format_value(facts.dirty, 'B')} wait to be written, about the limit of "
        f"{format_value(facts.dirty_limit, 'B')}; the kernel holds writers up",
        next="nothing while a save runs: the storage is slower than the job; save fewer bytes or less often",
        source="chosen here: 90 %; Linux, Documentation/admin-guide/sysctl/vm.rst, dirty_ratio",
    )


def _requests(mount: NfsMount, seconds: float, facts: StorageFacts) -> Iterator[NodeFinding]:
    total = mount.total
    if total.timeouts:
        yield NodeFinding(
            kind="nfs-timeouts",
            action=Action.RESTART,
            where=mount.place,
            found=f"{counted(total.timeouts, 'request')} got no answer and timed out in {seconds:.0f} s",
            next="look at the NFS server and at the network to it; dmesg has `nfs: server … not responding`",
            source=f"{_RULES}: NfsMajorTimeouts",
        )
    for name, count in mount.operations.items():
        if count.response_s is not None and count.response_s > _SLOW_S:
            yield NodeFinding(
                kind="nfs-slow",
                action=Action.RESTART if seconds >= _SLOW_FOR_S else Action.KEEP,
                where=mount.place,
                found=f"the server answers {name} in {format_value(count.response_s, 's')} on average",
                next="look at the NFS server: its disks, its load, the network to it"
                if seconds >= _SLOW_FOR_S
                else "look again for ten minutes (--watch 600): a burst alone is no fault",
                source=f"{_RULES}: NfsOperationSlow, above 100 ms for 10 minutes",
            )
    share = total.queue_share
    if share is not None and share > _QUEUE_SHARE and total.requests / seconds > _QUEUE_RATE:
        yield NodeFinding(
            kind="nfs-queue",
            action=Action.RESTART if seconds >= _QUEUE_FOR_S else Action.KEEP,
            where=mount.place,
            found=f"requests wait in this client for {share:.0%} of their time; the server answers in "
            f"{format_value(total.response_s or 0.0, 's')}, over {counted(mount.connections, 'connection')}",
            next="if the server answers fast, mount with nconnect=8, raise max_session_slots (NFS 4.1 and later), let "
            "fewer ranks save at once, or save asynchronously; if it answers slowly, the queue is its consequence"
            if seconds >= _QUEUE_FOR_S
            else "usual within a save, where many pages are queued at once; look for 15 minutes (--watch 900)",
            source=f"{_RULES}: NfsQueueTimeDominant, above 90 % with more than 10 requests a second for 15 minutes",
            evidence=tuple(f"{name} {value}" for name, value in _slots(mount, facts).items()),
        )


def _blocked_now(tasks: Sequence[BlockedTask]) -> NodeFinding:
    return NodeFinding(
        kind="blocked-now",
        action=Action.KEEP,
        where="node",
        found=f"{counted(len(tasks), 'process', 'processes')} in uninterruptible sleep: {_named(tasks)}",
        next="look again (--watch 10): only a process that stays there is stuck",
        source="chosen here: each read or write of a disk passes through this state",
    )


def _blocked_long(tasks: Sequence[BlockedTask], seconds: float) -> NodeFinding:
    long = seconds >= _BLOCKED_FOR_S
    return NodeFinding(
        kind="blocked-long",
        action=Action.RESTART if long else Action.KEEP,
        where="node",
        found=f"{counted(len(tasks), 'process', 'processes')} did not run in {seconds:.0f} s: {_named(tasks)}",
        next="as root, cat /proc/PID/stack names what it waits for; a storage server that answers again frees it"
        if long
        else "look again for longer (--watch 10)",
        source="chosen here: 10 s; the kernel itself reports at 120 s (kernel.hung_task_timeout_secs)",
    )


def _named(tasks: Sequence[BlockedTask]) -> str:
    shown = [
        f"{one_line(one.name)} ({one.pid}{', ' + one_line(one.waits_in) if one.waits_in else ''})"
        for one in tasks
    ]
    more = len(shown) - _NAMED
    return ", ".join(shown[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _stuck(before: Sequence[BlockedTask], now: Sequence[BlockedTask]) -> tuple[BlockedTask, ...]:
    earlier = {(one.pid, one.switches) for one in before}
    return tuple(one for one in now if (one.pid, one.switches) in earlier)


def _since(before: NfsMount, now: NfsMount) -> NfsMount:
    counts = {name: one - before.operations.get(name, RpcCount()) for name, one in now.operations.items()}
    return replace(now, operations={name: one for name, one in counts.items() if one.requests})


def _numbers(mounts: Sequence[NfsMount]) -> Iterator[NodeNumber]:
    for name in _NUMBERS:
        count = sum((one.operations.get(name, RpcCount()) for one in mounts), RpcCount())
        labels = (("op", name),)
        if count.queue_share is not None:
            yield NodeNumber("rpc_queue_share", count.queue_share, labels)
        if count.response_s is not None:
            yield NodeNumber("rpc_response_time", count.response_s, labels)


def _blocked_number(tasks: Sequence[BlockedTask] | None) -> Iterator[NodeNumber]:
    if tasks is not None:
        yield NodeNumber("blocked_tasks", len(tasks))


def _slots(mount: NfsMount, facts: StorageFacts) -> dict[str, str]:
    found = {
        "nconnect": mount.options.get("nconnect", "1"),
        "most requests at once": mount.slots,
        "tcp_max_slot_table_entries": facts.slots,
        "max_session_slots": facts.session_slots,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _judged(facts: StorageFacts) -> str:
    parts = [counted(len(facts.spaces), "file system")] if facts.spaces else []
    parts += [f"requests of {counted(len(facts.nfs), 'NFS mount')}"] if facts.nfs_known else []
    parts += ["blocked processes"] if facts.blocked is not None else []
    return ", ".join(parts)


def _facts(facts: StorageFacts) -> dict[str, object]:
    return {
        "file_systems": [{"kind": one.kind, "free": one.free, "size": one.size} for one in facts.spaces],
        "nfs": [
            {"options": dict(one.options), "connections": one.connections, **_slots(one, facts)}
            for one in facts.nfs
        ],
        "dirty": facts.dirty,
        "dirty_limit": facts.dirty_limit,
    }


def _settings(facts: StorageFacts) -> dict[str, str]:
    shown = sorted({",".join(f"{name}={value}" for name, value in one.options.items()) for one in facts.nfs})
    return {"NFS options": "; ".join(shown)} if shown else {}


GROUP = HostGroup("storage", read_storage, judge_storage, judge_storage_change)
