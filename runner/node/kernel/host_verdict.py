"""What the events of a kernel log say about the host: PCIe, NICs, memory, tasks, the driver. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from runner.base.words import counted
from runner.node.findings import Action, NodeFinding
from runner.node.kernel.events import KernelEvent
from runner.node.kernel.shown import evidence_of
from runner.node.kernel.timing import RECENT_S, Timing

# Corrected errors are repaired by sending again: only many of them cost time (chosen here: 100 an hour on one device).
_MANY_CORRECTED = 100
# leptonai/gpud, InfiniBand: at least 3 flaps, each with the link down for more than 30 s, in 12 h.
_FLAPS, _FLAP_S, _FLAPS_WITHIN_S = 3, 30.0, 12 * 3600.0
_REBOOT = "take the node out of service and reboot it"


@dataclass(frozen=True)
class _Rule:
    """What a kind of event means.

    Attributes:
        words: the problem; `{detail}` is replaced.
        new: the action while the event is recent.
        old: the action later.
        next: what to do.
        source: whose rule it is.
    """

    words: str
    new: Action
    old: Action
    next: str
    source: str


_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "reboot-demanded": _Rule(
            "the driver needs a reboot: {detail}",
            Action.DRAIN,
            Action.DRAIN,
            _REBOOT,
            "the driver's own message",
        ),
        "nvlink-discovery-stuck": _Rule(
            "the driver cannot discover the NVLinks: {detail}",
            Action.DRAIN,
            Action.DRAIN,
            f"{_REBOOT}; `nvidia-smi` may hang until then",
            "leptonai/gpud #1271: a driver that is stuck in this way needs a reboot",
        ),
        "driver-mismatch": _Rule(
            "driver module and libraries have different versions: {detail}",
            Action.DRAIN,
            Action.KEEP,
            "make both equal: reload the module or reboot; `runbook show gpu-not-usable`",
            "chosen here: no new program can use the GPUs; an old line may be that of one container",
        ),
        "aer-fatal": _Rule(
            "a fatal PCIe error",
            Action.DRAIN,
            Action.DRAIN,
            f"{_REBOOT}; check seating and riser",
            "Linux, PCIe AER",
        ),
        "aer-uncorrected": _Rule(
            "an uncorrected PCIe error, not fatal",
            Action.RESTART,
            Action.KEEP,
            "restart the job; if it comes back, drain the node and check seating and riser",
            "chosen here: the transaction is lost, the link works on",
        ),
        "pcie-limited": _Rule(
            "{detail}",
            Action.KEEP,
            Action.KEEP,
            "compare with the board: `runbook show pcie-numa-placement`",
            "chosen here: some slots are narrow by design",
        ),
        "nic-module-error": _Rule(
            "the port module reports: {detail}",
            Action.DRAIN,
            Action.KEEP,
            "check cable, transceiver and cooling of this port; `runbook show rdma-path-degraded`",
            "leptonai/gpud, InfiniBand: a module error takes the link down",
        ),
        "nic-unplugged": _Rule(
            "{detail}",
            Action.KEEP,
            Action.KEEP,
            "expected for unused ports; `runbook show rdma-path-degraded`",
            "chosen here: unused ports say this at each start",
        ),
        "nic-power": _Rule(
            "the adapter says that its slot gives too little power ({detail})",
            Action.KEEP,
            Action.KEEP,
            "measure the port's bandwidth; some boards say this at each start and run at full rate",
            "chosen here: reported both as a fault (NVSentinel) and as benign",
        ),
        "nic-firmware": _Rule(
            "the adapter's firmware does not answer: {detail}",
            Action.DRAIN,
            Action.KEEP,
            f"{_REBOOT}; `runbook show rdma-path-degraded`",
            "Linux, mlx5 health: the device has to be recovered",
        ),
        "peer-memory": _Rule(
            "{detail}",
            Action.KEEP,
            Action.KEEP,
            "seen when a program with registered GPU memory ends; nothing to do by itself",
            "chosen here: a consequence of a program that ended",
        ),
        "oom": _Rule(
            "the kernel killed a process because memory ran out: {detail}",
            Action.RESTART,
            Action.KEEP,
            "give the job more memory, or take less; `runbook show container-limits`",
            "chosen here: the node is sound",
        ),
        "file-max": _Rule(
            "the node has no open files left (limit {detail})",
            Action.RESTART,
            Action.KEEP,
            "find who holds them (`lsof | wc -l`); raise fs.file-max",
            "chosen here: new files fail until some are closed",
        ),
        "host-memory-uncorrected": _Rule(
            "an uncorrectable error of the host's memory or processor: {detail}",
            Action.DRAIN,
            Action.DRAIN,
            "take the node out of service; the module named has to be tested or replaced",
            "Linux, EDAC and MCE: data was lost",
        ),
        "firmware-error": _Rule(
            "the firmware reports an error of the host's hardware ({detail})",
            Action.RESTART,
            Action.KEEP,
            "read the lines after it: the section names memory, processor or PCIe; for memory, drain the node",
            "Linux, drivers/firmware/efi/cper.c; chosen here: the line itself does not name the part",
        ),
        "host-memory-corrected": _Rule(
            "corrected errors of the host's memory or another part: {detail}",
            Action.KEEP,
            Action.KEEP,
            "watch it; many on one module: replace it at the next service",
            "Linux, EDAC and MCE: no data was lost",
        ),
        "hung-task": _Rule(
            "a task was stuck in the kernel ({detail})",
            Action.RESTART,
            Action.KEEP,
            "see what it waits for: `cat /proc/PID/stack` as root; storage and the GPU driver are usual",
            "chosen here: the kernel only reports the wait",
        ),
    }
)


def judge_host_events(events: Sequence[KernelEvent], timing: Timing) -> list[NodeFinding]:
    """One finding for each kind of event and device."""
    groups: dict[tuple[str, str], list[KernelEvent]] = defaultdict(list)
    for event in events:
        if event.kind in _RULES:
            groups[event.kind, _place(event)].append(event)
    found = [_finding(_RULES[kind], kind, place, same, timing) for (kind, place), same in groups.items()]
    found += _corrected(events, timing)
    return found + list(_flaps(events, timing))


def _place(event: KernelEvent) -> str:
    if event.device:
        return event.device
    if event.kind in {"oom", "hung-task"}:
        return f"{event.program} (pid {event.pid})"
    return "node"


def _finding(
    rule: _Rule, kind: str, place: str, events: Sequence[KernelEvent], timing: Timing
) -> NodeFinding:
    action = rule.new if any(map(timing.recent, events)) else rule.old
    # The longest detail tells most: an OOM kill has two lines.
    detail = max((one.detail for one in events), key=len)
    return NodeFinding(
        kind=kind,
        action=action,
        where=place,
        found=f"{rule.words.format(detail=detail)} "
        f"({counted(len(events), 'line')}, the newest {timing.newest(events)})",
        next=rule.next,
        source=rule.source,
        evidence=evidence_of(events),
    )


def _corrected(events: Sequence[KernelEvent], timing: Timing) -> list[NodeFinding]:
    """Corrected PCIe errors, which the kernel reports in up to two lines each."""
    groups: dict[str, list[KernelEvent]] = defaultdict(list)
    for event in events:
        if event.kind == "aer-corrected":
            groups[event.device or "node"].append(event)
    found = []
    for place, same in groups.items():
        recent = [one for one in same if timing.recent(one)]
        reports = sum("PCIe Bus Error" in one.line for one in recent)
        number = max(reports, len(recent) - reports)
        many = number >= _MANY_CORRECTED
        found.append(
            NodeFinding(
                kind="aer-corrected",
                action=Action.DRAIN if many else Action.KEEP,
                where=place,
                found=f"{counted(number, 'corrected PCIe error')} in the last {RECENT_S / 60:.0f} min, "
                f"{counted(len(same), 'line')} in all",
                next="drain the node; reseat the card, check riser and cable"
                if many
                else "compare the link's width and speed with the board: `runbook show pcie-numa-placement`",
                source=f"chosen here: {_MANY_CORRECTED} an hour on one device cost time; single ones do not",
                evidence=evidence_of(same),
            )
        )
    return found


def _flaps(events: Sequence[KernelEvent], timing: Timing) -> Iterator[NodeFinding]:
    """Links of adapters that went down and came back."""
    groups: dict[str, list[KernelEvent]] = defaultdict(list)
    for event in events:
        if event.kind in {"nic-link-down", "nic-link-up"}:
            groups[f"{event.device} {event.detail}".strip()].append(event)
    for place, same in groups.items():
        downs = [one for one in same if one.kind == "nic-link-down"]
        if not downs:
            continue
        flaps = [one for one in _long_downs(same) if timing.recent(one, _FLAPS_WITHIN_S)]
        many = len(flaps) >= _FLAPS
        now = "down" if same[-1].kind == "nic-link-down" else "up"
        yield NodeFinding(
            kind="nic-link-flaps" if many else "nic-link-down",
            action=Action.DRAIN if many else Action.KEEP,
            where=place,
            found=f"the link went down {counted(len(downs), 'time')} and is {now} by this log; "
            f"{len(flaps)} times for more than {_FLAP_S:.0f} s in the last 12 h; the newest {timing.newest(downs)}",
            next="check cable, transceiver and switch port; `runbook show rdma-path-degraded`"
            if many
            else "whether it should be up: `runbook show rdma-path-degraded`",
            source=f"leptonai/gpud, InfiniBand: {_FLAPS} flaps of more than {_FLAP_S:.0f} s in 12 h",
            evidence=evidence_of(same),
        )


def _long_downs(events: Sequence[KernelEvent]) -> list[KernelEvent]:
    found: list[KernelEvent] = []
    down: KernelEvent | None = None
    for event in events:
        if event.kind == "nic-link-down":
            down = down or event
            continue
        if (
            down is not None
            and down.at_s is not None
            and event.at_s is not None
            and down.clock == event.clock
        ):
            found += [down] if event.at_s - down.at_s > _FLAP_S else []
        down = None
    return found
