"""Group `cpu`: the cores that a process may use, and whether its threads get them. Pure but for `cpu_reading`.

One reading shows limits; whether one of them matters only two readings tell (--watch). A process that hardly runs lacks
nothing, whatever its limits are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.base.words import counted
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict
from runner.node.host.cgroup_findings import often_throttled
from runner.node.host.cpu_reading import CpuFacts, read_cpu
from runner.node.host.group import HostGroup, HostReading

_KERNEL = "Linux Documentation/admin-guide/cgroup-v2.rst, cpu.stat"
_SCHEDSTAT = "Linux Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat"
# Chosen. A process below the first, in cores, is idle; the others are shares of periods and of time.
_IDLE, _OFTEN, _WAITED, _OVER, _NEARLY_ALL = 0.05, 0.05, 0.2, 1.2, 0.9
_FEWEST_PERIODS = 10
_FAULTS_A_SECOND = 10.0
_NS = 1e9
# In these drivers' active modes powersave scales with the load (Linux admin-guide/pm/intel_pstate.rst, amd-pstate.rst).
_SCALES_ANYWAY = frozenset({"intel_pstate", "amd-pstate-epp", "amd_pstate_epp"})


def judge_cpu(facts: CpuFacts) -> NodeVerdict:
    """The verdict on one reading: limits are notes, and only an exhausted one is a fault."""
    numbers = [NodeNumber("allowed_cores", len(facts.allowed))] if facts.allowed else []
    if facts.levels:
        numbers.append(NodeNumber("quota_cores", min(one.cores for one in facts.levels)))
    return NodeVerdict(
        findings=(
            *_files(facts),
            *often_throttled(facts.levels, "--watch 10 tells whether it is now"),
            *_few_cores(facts),
            *_governor(facts),
        ),
        not_read=facts.not_read,
        numbers=tuple(numbers),
        judged=f"{len(facts.allowed)} of {counted(len(facts.online), 'core')}, quotas and open files of one process "
        f"with {counted(facts.threads or 0, 'thread')} and {counted(facts.loaders, 'loader')}"
        if facts.allowed
        else "",
        facts=_facts(facts),
    )


def judge_cpu_change(readings: Sequence[HostReading[CpuFacts]]) -> NodeVerdict:
    """The verdict on the last reading, and on what its threads got since the first one."""
    first, last = readings[0], readings[-1]
    seconds, now = last.at_s - first.at_s, judge_cpu(last.facts)
    before = first.facts.tasks
    grown = [
        (max(0, ran - before[task][0]), max(0, waited - before[task][1]))
        for task, (ran, waited) in last.facts.tasks.items()
        if task in before
    ]
    ran, waited = (sum(one[index] for one in grown) / _NS / seconds for index in (0, 1))
    findings = [one for one in now.findings if one.kind != "cpu-throttled"]
    numbers = list(now.numbers)
    share = waited / (ran + waited) if ran + waited else 0.0
    if ran + waited >= _IDLE:
        numbers.append(NodeNumber("core_wait_share", share))
    throttled = max(_throttled_share(first.facts, last.facts), key=lambda one: one[1], default=None)
    if throttled is not None:
        numbers.append(NodeNumber("throttled_periods", throttled[1]))
    if ran + waited >= _IDLE:
        if throttled is not None and throttled[1] > _OFTEN:
            findings.append(_throttled(*throttled, seconds))
        elif share >= _WAITED:
            findings.append(_no_core(last.facts, ran, waited, share))
        findings += _major_faults(first.facts, last.facts, seconds)
    judged = f"{now.judged}, and what its threads got in {seconds:.0f} s" if now.judged else ""
    facts = {**now.facts, "cores_run": round(ran, 3), "cores_waited_for": round(waited, 3)}
    return replace(now, findings=tuple(findings), numbers=tuple(numbers), judged=judged, facts=facts)


def _throttled_share(first: CpuFacts, last: CpuFacts) -> Iterator[tuple[str, float, float]]:
    before = {one.where: one for one in first.levels}
    for one in last.levels:
        old = before.get(one.where)
        periods = one.periods - old.periods if old else 0
        if old and periods >= _FEWEST_PERIODS:
            hits = max(0, one.throttled_periods - old.throttled_periods)
            yield one.where, min(1.0, hits / periods), one.cores


def _throttled(where: str, share: float, cores: float, seconds: float) -> NodeFinding:
    return NodeFinding(
        kind="cpu-throttled-now",
        action=Action.RESTART,
        where=where,
        found=f"its quota is {cores:g} cores, and it was used up in {share:.0%} of the periods of {seconds:.0f} s",
        next="raise the CPU limit (docker --cpus, resources.limits.cpu, CPUQuota=), or give the job fewer threads and "
        "loaders; OMP_NUM_THREADS does not follow a quota",
        source=f"{_KERNEL}; chosen here: a twentieth of the periods",
    )


def _no_core(facts: CpuFacts, ran: float, waited: float, share: float) -> NodeFinding:
    wants, cores = ran + waited, min(len(facts.allowed), len(facts.loaders_allowed or facts.allowed))
    over, narrow = wants > _OVER * cores, cores < len(facts.online)
    among = (
        f", which {counted(facts.sharing, 'process', 'processes')} of one launcher share"
        if facts.sharing > 1
        else ""
    )
    if over and narrow:
        kind, then = (
            "cores-too-few",
            "bind it to more cores (--cpus-per-task, --cpu-bind, taskset), or use fewer threads",
        )
    elif over:
        kind, then = (
            "threads-over-cores",
            "set OMP_NUM_THREADS and num_workers so that together they fit the cores",
        )
    elif facts.sharing > 1:
        kind, then = (
            "ranks-share-cores",
            "bind each rank to cores of its own, or set OMP_NUM_THREADS to cores ÷ ranks",
        )
    else:
        kind, then = (
            "cores-shared",
            "end what else runs there (top -b -n 1), or bind the process to cores of its own",
        )
    return NodeFinding(
        kind=kind,
        action=Action.RESTART,
        where="this process",
        found=f"its threads and loaders were ready without a core {share:.0%} of the time: they want {wants:.1f} cores,"
        f" and it, or its loaders, may use {cores} of {len(facts.online)}{among}",
        next=then,
        source=f"{_SCHEDSTAT}; chosen here: a fifth of the time",
    )


def _major_faults(first: CpuFacts, last: CpuFacts, seconds: float) -> Iterator[NodeFinding]:
    grown = sum(
        max(0, count - first.major_faults.get(one, count)) for one, count in last.major_faults.items()
    )
    if grown / seconds >= _FAULTS_A_SECOND:
        yield NodeFinding(
            kind="major-faults",
            action=Action.KEEP,
            where="this process",
            found=f"{grown} page faults read from storage in {seconds:.0f} s",
            next="usual while weights or a mapped data set are read for the first time; if it lasts, memory is short",
            source="proc_pid_stat(5), majflt; chosen here: ten in a second",
        )


def _files(facts: CpuFacts) -> Iterator[NodeFinding]:
    if facts.open_files and facts.most_files and facts.open_files >= _NEARLY_ALL * facts.most_files:
        yield NodeFinding(
            kind="open-files-nearly-all",
            action=Action.RESTART,
            where="this process",
            found=f"{facts.open_files} of {facts.most_files} possible files are open",
            next="raise RLIMIT_NOFILE; host_paths --group limits says how",
            source="chosen here: a loader opens a file for each tensor in flight; 90 % is in use",
        )


def _few_cores(facts: CpuFacts) -> Iterator[NodeFinding]:
    if facts.loaders and facts.loaders + 1 > len(facts.allowed) > 0:
        yield NodeFinding(
            kind="loaders-over-cores",
            action=Action.KEEP,
            where="this process",
            found=f"{counted(facts.loaders, 'loader')} and the main thread have {counted(len(facts.allowed), 'core')}",
            next="--watch 10 tells whether they lack one; num_workers of cores − 1 does as much",
            source="torch/utils/data/dataloader.py warns above the cores of the affinity",
        )


def _governor(facts: CpuFacts) -> Iterator[NodeFinding]:
    low = facts.governors.get("powersave", 0)
    if low and facts.driver is not None and facts.driver not in _SCALES_ANYWAY:
        yield NodeFinding(
            kind="governor-lowest",
            action=Action.KEEP,
            where="node",
            found=f"{counted(low, 'core')} of it at the lowest frequency (powersave under {facts.driver})",
            next="as root: cpupower frequency-set -g performance",
            source="Linux Documentation/admin-guide/pm/cpufreq.rst, powersave",
        )


def _facts(facts: CpuFacts) -> dict[str, object]:
    return {
        "allowed": len(facts.allowed),
        "online": len(facts.online),
        "numa_nodes": list(facts.nodes),
        "threads": facts.threads,
        "loaders": facts.loaders,
        "processes_of_one_launcher_on_its_cores": facts.sharing,
        "quota_cores": min((one.cores for one in facts.levels), default=None),
        "pressure_of_the_host": facts.pressure,
        "pressure_of_the_group": facts.group_pressure,
        "governors": dict(facts.governors),
        "cpufreq_driver": facts.driver,
        "open_files": facts.open_files,
    }


GROUP = HostGroup("cpu", read_cpu, judge_cpu, judge_cpu_change)
