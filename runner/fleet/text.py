"""Parses the output of Slurm's commands. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Field names begin with a capital. A value extends to the next field name, so it may contain spaces.
_FIELD = re.compile(r"(?:^|(?<=\s))([A-Z][A-Za-z0-9/:_]*)=")
# The reason of a node is free text, followed by its author and time.
_NOTED = re.compile(r"(?P<text>.*?)\s*\[[^\[\]@]*@[0-9T:-]+\]")
# States in which a job is not over. COMPLETING: its processes are being terminated.
LIVE = frozenset(
    {
        "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "REQUEUED",
        "REQUEUE_HOLD", "SIGNALING", "STAGE_OUT", "RESV_DEL_HOLD", "SPECIAL_EXIT",
    }
)  # fmt: skip
# Flags of a node on which no job will start without intervention. UNKNOWN (after a start of the controller) and
# NOT_RESPONDING are not among them: Slurm changes each to another state, at the latest to DOWN after SlurmdTimeout. Nor
# is POWERED_DOWN: power saving starts the node for the job.
_UNFIT = ("DOWN", "DRAIN", "FAIL", "MAINT", "FUTURE", "ERROR")
# Flags of a node on which a job can start only later.
_LATER = {
    "NOT_RESPONDING",
    "POWERED_DOWN",
    "POWERING_DOWN",
    "POWER_DOWN",
    "POWERING_UP",
    "POWER_UP",
    "REBOOT_ISSUED",
}


@dataclass(frozen=True)
class QueuedJob:
    """One line of squeue: the full state, the comment of the job, and Slurm's reason."""

    job_id: str
    state: str
    tag: str
    reason: str

    @property
    def live(self) -> bool:
        """Whether the job is not over."""
        return self.state in LIVE


@dataclass(frozen=True)
class JobEnd:
    """How a job ended, from `scontrol show job`. `time_limit` is in Slurm's format."""

    state: str
    reason: str
    exit_status: int
    signal: int
    time_limit: str


@dataclass(frozen=True)
class ClusterNode:
    """A node as reported by the controller. `reason` was set by an administrator or by Slurm."""

    name: str
    state: str
    reason: str | None

    @property
    def fit(self) -> bool:
        """Whether a job that requests it would eventually start."""
        return not any(flag.startswith(_UNFIT) for flag in self.state.split("+"))

    @property
    def idle(self) -> bool:
        """Whether a job would start on it at once."""
        flags = self.state.split("+")
        # A character after the state is a flag: `*` not responding, `~` powered down.
        return self.fit and flags[0] == "IDLE" and _LATER.isdisjoint(flags)


def parse_fields(line: str) -> Mapping[str, str]:
    """The `Name=value` pairs of one line of `scontrol show … -o`."""
    found = list(_FIELD.finditer(line))
    ends = [match.start() for match in found[1:]] + [len(line)] * bool(found)
    return {match[1]: line[match.end() : end].strip() for match, end in zip(found, ends, strict=True)}


def parse_queue(text: str) -> Mapping[str, QueuedJob]:
    """Job id → job, from `squeue --noheader --format=%i|%T|%r|%k`; other lines are ignored.

    The comment may be changed to any text, including line ends, so it is the last field.
    """
    found = {}
    for line in text.splitlines():
        job_id, _, rest = line.strip().partition("|")
        state, _, rest = rest.partition("|")
        reason, bar, tag = rest.rpartition("|")
        if bar and job_id[:1].isdecimal():
            found[job_id] = QueuedJob(job_id, state, tag, reason)
    return found


def parse_job_end(text: str) -> JobEnd | None:
    """How the job of `scontrol show job -o ID` ended; None if the line does not describe a job."""
    fields = parse_fields(text.splitlines()[0] if text.strip() else "")
    if "JobState" not in fields:
        return None
    status, _, number = fields.get("ExitCode", "0:0").partition(":")
    return JobEnd(
        state=fields["JobState"],
        reason=fields.get("Reason", "None"),
        exit_status=_number(status),
        signal=_number(number),
        time_limit=fields.get("TimeLimit", "unknown"),
    )


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else 0


def parse_nodes(text: str) -> tuple[ClusterNode, ...]:
    """The nodes of `scontrol show node -o`, in the printed order, which is that of the configuration."""
    found = []
    for line in text.splitlines():
        # The reason is free text at the end of the line: anything in it that looks like a field is part of it.
        facts, _, reason = line.partition(" Reason=")
        fields = parse_fields(facts)
        if "NodeName" not in fields:
            continue
        signed = _NOTED.match(reason)
        noted = (signed["text"] if signed else reason).strip()
        found.append(ClusterNode(fields["NodeName"], fields.get("State", "UNKNOWN"), noted or None))
    return tuple(found)


def parse_partitions(text: str) -> tuple[Mapping[str, tuple[str, ...]], str | None]:
    """Partition → its nodes' names, and the default partition, from `sinfo --noheader --Node --format=%P|%N`."""
    nodes: dict[str, list[str]] = {}
    default = None
    for line in text.splitlines():
        partition, bar, node = line.strip().partition("|")
        if not bar:
            continue
        if partition.endswith("*"):
            partition = default = partition[:-1]
        if node not in nodes.setdefault(partition, []):
            nodes[partition].append(node)
    return {partition: tuple(names) for partition, names in nodes.items()}, default
