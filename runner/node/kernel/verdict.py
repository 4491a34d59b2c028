"""The verdict on a kernel log: findings, numbers, and what is unknown. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.base.words import counted
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.kernel.driver_word import with_drivers_word
from runner.node.kernel.events import KernelEvent, kernel_events
from runner.node.kernel.forms import About
from runner.node.kernel.gpu_verdict import judge_gpu_events
from runner.node.kernel.host_verdict import judge_host_events
from runner.node.kernel.lines import LogLine, newest_of
from runner.node.kernel.shown import evidence_of, xid_counts
from runner.node.kernel.sxid_catalogue import sxid_meaning
from runner.node.kernel.timing import Timing, age_words
from runner.node.kernel.xid_catalogue import xid_row
from runner.node.recovery import RecoveryRequest

_MOST_LISTED, _MOST_NUMBERS, _CHARACTERS = 100, 200, 300


@dataclass(frozen=True, kw_only=True)
class LogRequest:
    """How to judge a log.

    Attributes:
        about: what to judge; None for everything.
        since_s: leave out older events; None for the whole log.
        source: `kernel`, `journal`, `captured`, `drill`: a label of the numbers.
        drill: only the lines of a drill count.
        now: the time of judging; None for a captured log, which is judged as of its newest line.
        requests: as for `with_drivers_word`.
    """

    about: About | None
    source: str
    since_s: float | None = None
    drill: bool = False
    now: Timing | None = None
    requests: Mapping[str, RecoveryRequest] = field(default_factory=dict)


def judge_kernel_log(
    lines: Sequence[LogLine], request: LogRequest, missing: Sequence[NotRead] = ()
) -> NodeVerdict:
    """The verdict on a log.

    Args:
        lines: of the log, the oldest first.
        request: how to judge it.
        missing: what of it could not be read.
    """
    timing = request.now or Timing(newest_of(lines), live=False)
    events = kernel_events(lines, drill=request.drill)
    before, events = _since_boot(events)
    chosen = [one for one in events if _wanted(one, request, timing)]
    gpu = judge_gpu_events(chosen, timing)
    findings = [*with_drivers_word(gpu.findings, request.requests), *judge_host_events(chosen, timing)]
    history = [one for one in before if _wanted(one, request, timing) and one.kind != "boot"]
    findings += [_of_earlier_start(history)] if history else []
    unknown = _unknown(chosen)
    return NodeVerdict(
        findings=tuple(findings),
        not_read=(*gpu.not_read, *missing),
        numbers=_numbers(chosen, unknown, request),
        judged=_judged(lines, chosen, timing, request),
        facts={
            "about": request.about.value if request.about else "all",
            "lines": len(lines),
            "events": [_listed(one, timing) for one in chosen[-_MOST_LISTED:]],
            "events_in_all": len(chosen),
            "unknown_codes": unknown[:_MOST_LISTED],
            "judged_as_of": "now" if request.now else "the newest line of the log",
        },
    )


def _since_boot(events: Sequence[KernelEvent]) -> tuple[list[KernelEvent], list[KernelEvent]]:
    """The events before the last start of the node, and those since."""
    boot = max((place for place, one in enumerate(events) if one.kind == "boot"), default=-1)
    return list(events[: boot + 1]), list(events[boot + 1 :])


def _wanted(event: KernelEvent, request: LogRequest, timing: Timing) -> bool:
    if request.about is not None and request.about not in event.about:
        return False
    return request.since_s is None or timing.recent(event, request.since_s)


def _of_earlier_start(events: Sequence[KernelEvent]) -> NodeFinding:
    return NodeFinding(
        kind="earlier-start",
        action=Action.KEEP,
        where="node",
        found=f"before the last start of the node: {xid_counts(events)}",
        next="if one of them comes back after this start, give the node to repair",
        source="chosen here: a start of the node resets its GPUs and switches",
        evidence=evidence_of(events),
    )


def _unknown(events: Sequence[KernelEvent]) -> list[dict[str, object]]:
    """Codes that no table has, with their newest lines."""
    found: dict[tuple[str, int], KernelEvent] = {}
    for one in events:
        if one.code is None:
            continue
        known = xid_row(one.code) if one.kind == "xid" else sxid_meaning(one.code)
        if known is None:
            found[one.kind, one.code] = one
    return [
        {"kind": kind, "code": code, "line": one.line[:_CHARACTERS]} for (kind, code), one in found.items()
    ]


def _numbers(
    events: Sequence[KernelEvent], unknown: Sequence[object], request: LogRequest
) -> tuple[NodeNumber, ...]:
    counts = Counter((one.code or 0, one.device or "not named") for one in events if one.kind == "xid")
    source = ("source", request.source)
    return (
        NodeNumber("xid_unknown", len(unknown), (source,)),
        *(
            NodeNumber("xid_events", number, (("code", code), ("gpu", gpu), source))
            for (code, gpu), number in sorted(counts.items())[:_MOST_NUMBERS]
        ),
    )


def _judged(
    lines: Sequence[LogLine], events: Sequence[KernelEvent], timing: Timing, request: LogRequest
) -> str:
    about = f"events about {request.about.value}" if request.about else "events"
    spans = [
        timing.now[one.clock] - one.at_s
        for one in lines[:1]
        if one.clock in timing.now and one.clock is not None and one.at_s is not None
    ]
    span = f", which go back {age_words(max(0.0, spans[0]))}" if spans else ", without times"
    limit = f"; those of the last {age_words(request.since_s)}" if request.since_s is not None else ""
    return f"{about} in {counted(len(lines), 'line')} of the kernel log{span}{limit}: {len(events)}"


def _listed(event: KernelEvent, timing: Timing) -> dict[str, object]:
    age = timing.age(event)
    return {
        "kind": event.kind,
        "code": event.code,
        "device": event.device,
        "pid": event.pid,
        "program": event.program,
        "age_s": None if age is None else round(age, 1),
        "line": event.line[:_CHARACTERS],
    }
