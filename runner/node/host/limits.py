"""Whether a process's shared memory, locked memory, open files, processes and memory suffice for large models."""

from collections.abc import Iterator

from runner.base.units import format_value
from runner.base.words import counted
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict
from runner.node.host.cgroup_findings import cgroup_findings
from runner.node.host.group import HostGroup
from runner.node.host.limits_reading import LimitsFacts, ResourceLimit, read_limits
from runner.node.host.limits_remedies import how_to_raise

# NCCL's documentation adds --shm-size=1g for containers, as an example.
_LEAST_SHM = 1 << 30
_SEVERAL = 2
# Chosen: eight ranks with eight workers each, and 1,000 shared tensors in flight for each worker.
_LEAST_FILES = 65_536
_NEARLY_ALL, _MOST_LEFT_OVER = 0.9, 0.5
_NCCL = "NCCL user guide (read 2026), Runtime and MPI issues, Docker: --shm-size=1g --ulimit memlock=-1"
_PIN = "NCCL user guide, as for shared memory; the kernel's ib_umem_get counts pinned pages against RLIMIT_MEMLOCK"


def judge_limits(facts: LimitsFacts) -> NodeVerdict:
    """The verdict on the limits of one process.

    A limit is a fault where something needs more: shared memory where several GPUs, or a DataLoader's workers, use it;
    locked memory where a GPU node has active RDMA ports. Elsewhere it is a note. A limit that was hit is a fault.
    """
    findings = (
        *_shm(facts),
        *_leftovers(facts),
        *_memlock(facts),
        *_nofile(facts),
        *_file_max(facts),
        *cgroup_findings(facts.cgroups, facts.starter, facts.shm.size if facts.shm else None),
    )
    return NodeVerdict(
        findings=findings,
        not_read=facts.not_read,
        numbers=tuple(_numbers(facts)),
        judged=_judged(facts),
        facts=_facts(facts),
    )


def _shm(facts: LimitsFacts) -> Iterator[NodeFinding]:
    shm, needed = facts.shm, facts.gpus >= _SEVERAL or facts.workers > 0
    if shm is None and not facts.shm_missing:
        return
    if shm is not None and shm.size >= _LEAST_SHM:
        if shm.free is not None and shm.free < (1 - _NEARLY_ALL) * shm.size:
            yield NodeFinding(
                kind="shared-memory-full",
                action=Action.RESTART if needed else Action.KEEP,
                where="this process",
                found=f"/dev/shm has {format_value(shm.free, 'B')} left of {format_value(shm.size, 'B')}",
                next="end the jobs that use it and remove their files, or "
                + how_to_raise("shm", facts.starter),
                source="chosen here: a new tensor or segment needs space; 90 % is in use",
            )
        return
    found = (
        "there is no /dev/shm"
        if shm is None
        else f"/dev/shm has {format_value(shm.size, 'B')}, less than 1 GiB"
    )
    users = [counted(facts.gpus, "GPU")] if facts.gpus else []
    users += [counted(facts.workers, "DataLoader worker")] if facts.workers else []
    yield NodeFinding(
        kind="shared-memory-small",
        action=Action.RESTART if needed else Action.KEEP,
        where="this process",
        found=found + (f", with {' and '.join(users)}" if users else ""),
        next=how_to_raise("shm", facts.starter)
        if needed
        else "nothing, unless loaders or several GPUs use it",
        source=_NCCL,
        evidence=() if shm is None else (f"size from {shm.source}",),
    )


def _leftovers(facts: LimitsFacts) -> Iterator[NodeFinding]:
    left = facts.leftovers
    if left is None or not left.count or facts.shm is None:
        return
    large = left.bytes >= _MOST_LEFT_OVER * facts.shm.size and left.unseen is None
    yield NodeFinding(
        kind="shared-memory-leftovers",
        action=Action.RESTART if large else Action.KEEP,
        where="/dev/shm",
        found=f"{counted(left.count, 'file')} of NCCL, PyTorch or multiprocessing with {format_value(left.bytes, 'B')} "
        + ("has no owner" if left.count == 1 else "have no owner")
        + (f" among the processes seen; {left.unseen}" if left.unseen else ""),
        next="when no job runs here, remove /dev/shm/nccl-*, torch_*, sem.* and psm_*",
        source="chosen here: half of /dev/shm is lost to the next job"
        if large
        else "chosen here: space is left",
    )


def _memlock(facts: LimitsFacts) -> Iterator[NodeFinding]:
    limit = facts.limits.get("Max locked memory")
    if limit is None or limit.soft is None:
        return
    needed = facts.gpus > 0 and facts.rdma > 0 and not facts.locks_freely
    if not needed and not (facts.gpus or facts.rdma):
        return
    if not needed:
        why = (
            "it has CAP_IPC_LOCK, so the limit does not bind it"
            if facts.locks_freely
            else "it matters for RDMA only"
        )
    yield NodeFinding(
        kind="locked-memory-limited",
        action=Action.RESTART if needed else Action.KEEP,
        where="this process",
        found=f"locked memory is limited to {format_value(limit.soft, 'B')}"
        + (f", with {counted(facts.rdma, 'active RDMA port')}" if needed else ""),
        next=how_to_raise("memlock", facts.starter) if needed else f"nothing: {why}",
        source=_PIN,
        evidence=(_shown("Max locked memory", limit),),
    )


def _nofile(facts: LimitsFacts) -> Iterator[NodeFinding]:
    limit = facts.limits.get("Max open files")
    if limit is None or limit.soft is None:
        return
    opened = facts.open_files
    if opened is not None and opened >= _NEARLY_ALL * limit.soft:
        yield NodeFinding(
            kind="open-files-nearly-all",
            action=Action.RESTART,
            where="this process",
            found=f"{opened} of {limit.soft} possible files are open",
            next=how_to_raise("nofile", facts.starter),
            source="chosen here: a loader opens a file for each tensor in flight; 90 % is in use",
        )
        return
    if not facts.gpus or limit.soft >= _LEAST_FILES:
        return
    low = limit.hard is not None and limit.hard < _LEAST_FILES
    yield NodeFinding(
        kind="open-files-limited",
        action=Action.RESTART if low else Action.KEEP,
        where="this process",
        found=f"it may open {limit.soft} files, and may raise that to "
        + ("any number" if limit.hard is None else str(limit.hard)),
        next=how_to_raise("nofile", facts.starter)
        if low
        else "nothing for NCCL, which raises it by itself; for loaders, `ulimit -n 65536` before the job",
        source="chosen here: 65,536 for 8 ranks with 8 workers each; NCCL user guide: over 32,000 at scale; "
        "NCCL's bootstrap.cc raises the soft limit",
        evidence=(_shown("Max open files", limit),),
    )


def _file_max(facts: LimitsFacts) -> Iterator[NodeFinding]:
    if facts.files is None or facts.files[0] < _NEARLY_ALL * facts.files[1]:
        return
    yield NodeFinding(
        kind="file-max-nearly-all",
        action=Action.RESTART,
        where="node",
        found=f"{facts.files[0]} of {facts.files[1]} files of the whole node are open",
        next="end what opens them, or as root `sysctl -w fs.file-max=9223372036854775807`",
        source="chosen here: 90 %; at the maximum the kernel logs `VFS: file-max limit … reached`",
        evidence=("/proc/sys/fs/file-nr",),
    )


def _shown(name: str, limit: ResourceLimit) -> str:
    soft, hard = ("unlimited" if one is None else str(one) for one in (limit.soft, limit.hard))
    return f"{name}: soft {soft}, hard {hard}"


def _numbers(facts: LimitsFacts) -> Iterator[NodeNumber]:
    if facts.shm is not None:
        yield NodeNumber("shared_memory_size", facts.shm.size)
    files = facts.limits.get("Max open files")
    if facts.open_files is not None and files is not None and files.soft:
        yield NodeNumber("open_files_share", min(1.0, facts.open_files / files.soft))
    kills = next((one.kills for one in facts.cgroups.memory if one.own), None)
    if kills is not None:
        yield NodeNumber("cgroup_memory_kills", kills)


def _judged(facts: LimitsFacts) -> str:
    parts = ["/dev/shm"] if facts.shm is not None or facts.shm_missing else []
    parts += ["resource limits"] if facts.limits else []
    parts += ["memory and processes of its control groups"] if facts.cgroups.memory else []
    return f"{', '.join(parts)} of one process, {counted(facts.gpus, 'GPU')}" if parts else ""


def _facts(facts: LimitsFacts) -> dict[str, object]:
    memory = [one.limit for one in facts.cgroups.memory if one.limit is not None]
    pids = [one.limit for one in facts.cgroups.pids if one.limit is not None]
    return {
        "started_by": facts.starter.value,
        "gpus": facts.gpus,
        "rdma_ports": facts.rdma,
        "shared_memory": None
        if facts.shm is None
        else {"bytes": facts.shm.size, "free": facts.shm.free, "source": facts.shm.source},
        "limits": {
            name: [facts.limits[name].soft, facts.limits[name].hard]
            for name in ("Max locked memory", "Max open files", "Max processes")
            if name in facts.limits
        },
        "open_files": facts.open_files,
        "memory_of_the_host": facts.memory,
        "memory_limit": min(memory, default=None),
        "swap_limit": min((one.swap for one in facts.cgroups.memory if one.swap is not None), default=None),
        "pids_limit": min(pids, default=None),
        "cpu_limit_cores": min((one.cores for one in facts.cgroups.cpu), default=None),
        "hugetlb_limits": dict(facts.cgroups.hugetlb),
        "groups_above_hidden": facts.cgroups.hidden,
    }


GROUP = HostGroup("limits", read_limits, judge_limits)
