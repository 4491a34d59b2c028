"""NVLinks of the GPUs: which are down, whose fault that is, and whether errors come now.

Which part is the suspect follows from the pattern: all links of all GPUs, the fabric; some links of every GPU, a
switch; all links of one GPU, that GPU; single links, that link or its board.
"""

from collections.abc import Iterator, Sequence

from runner.base.words import counted, ranges
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.gpu.group import GpuGroup, GpuReading
from runner.node.gpu.links_facts import GpuLinks, LinkFacts
from runner.node.gpu.links_growth import errors_before, errors_while_watched, moving_links
from runner.node.gpu.links_reading import ERRORS, STATES, read_links
from runner.node.gpu.links_text import parse_links
from runner.node.gpu.together import gpu_label, gpus_named, known_settings, not_read_together, same_on_all

_PATTERN = "chosen here: the part that all links that are down have in common is the suspect"
_FABRIC = "`runbook show fabric-not-ready`"


def judge_links(readings: Sequence[GpuReading[LinkFacts]]) -> NodeVerdict:
    """The verdict on the NVLinks of all GPUs.

    Args:
        readings: the oldest first; with several, counters are judged by their change.
    """
    now = readings[-1].facts
    judged = [
        gpu for gpu in now if gpu.links and not gpu.mig and any(link.active is not None for link in gpu.links)
    ]
    counted_gpus = [gpu for gpu in now if not gpu.mig and any(link.counters for link in gpu.links)]
    errors = errors_while_watched(readings) if len(readings) > 1 else errors_before(now)
    seen = judged or counted_gpus
    return NodeVerdict(
        findings=(*_down(judged), *_fewer(judged), *errors),
        not_read=not_read_together(pair for gpu in now for pair in _unread(gpu, now)),
        numbers=tuple(_numbers(readings, judged)),
        judged=f"NVLinks of {gpus_named([gpu.where for gpu in seen])}" if seen else "",
        not_applicable=None if seen else _why_nothing(now),
        facts={gpu.where: _shown(gpu) for gpu in now},
        settings=_settings(now),
    )


def _down(gpus: Sequence[GpuLinks]) -> Iterator[NodeFinding]:
    """What is down, with the part that is the suspect."""
    hit = [gpu for gpu in gpus if gpu.down and _should_be_up(gpu, gpus)]
    if not hit:
        yield from _bridges(gpus)
        return
    evidence = tuple(f"{gpu.where}: links {ranges(gpu.down)} are down" for gpu in hit)
    whole = [gpu for gpu in hit if not gpu.active]
    if len(whole) == len(gpus) > 1:
        yield _finding(
            "nvlinks-all-down",
            "node",
            f"all NVLinks of {counted(len(gpus), 'GPU')} are down",
            f"the fabric is not up, or was not set up: see {_FABRIC}; if it is up, the driver or the switches",
            evidence,
        )
        return
    if len(hit) == len(gpus) > 1 and not whole and _one_switch(hit):
        yield _finding(
            "nvlink-switch",
            "node",
            f"every GPU has {counted(len(hit[0].down), 'NVLink')} down: a switch is the suspect, not the GPUs",
            "drain the node; look for SXid lines and the Fabric Manager's log, then replace the switch or its board",
            evidence,
        )
        return
    for gpu in hit:
        if not gpu.active:
            yield _finding(
                "nvlinks-of-gpu-down",
                gpu.where,
                f"all {len(gpu.links)} NVLinks are down, and other GPUs have theirs",
                f"drain the node and reset the GPU; if they stay down, see {_FABRIC}, then replace the board",
                evidence[hit.index(gpu) : hit.index(gpu) + 1],
            )
            continue
        yield _finding(
            "nvlink-down",
            f"{gpu.where}, NVLink {ranges(gpu.down)}",
            f"{len(gpu.active)} of {len(gpu.links)} NVLinks are up",
            "drain the node; look for Xid 74 (Blackwell: 144 to 150) of this GPU, reset all GPUs, then reseat or "
            "replace the board",
            evidence[hit.index(gpu) : hit.index(gpu) + 1],
        )


def _should_be_up(gpu: GpuLinks, gpus: Sequence[GpuLinks]) -> bool:
    """Whether links that are down are a fault.

    On boards with switches always; with bridges, if only a part is down; on unknown boards, if others have more up.
    """
    if len(gpus) == 1 and not gpu.active:
        # A virtual machine with one GPU of a board with switches has them off.
        return False
    if gpu.switched or (gpu.board is not None and not gpu.board.bridged):
        return True
    if gpu.board is not None:
        return bool(gpu.active)
    # An unknown board with links from GPU to GPU: not all of them need to be used, but all GPUs are wired alike.
    most = max(len(other.active) for other in gpus if other.name == gpu.name)
    return 0 < len(gpu.active) < most


def _one_switch(hit: Sequence[GpuLinks]) -> bool:
    """Each GPU lost as many links, and they end at switches. Links are numbered from the GPU, not from the switch."""
    return len({len(gpu.down) for gpu in hit}) == 1 and all(gpu.switched for gpu in hit)


def _bridges(gpus: Sequence[GpuLinks]) -> Iterator[NodeFinding]:
    """Notes on links that may be down by design."""
    for gpu in gpus:
        if not gpu.down:
            continue
        if len(gpus) == 1 and not gpu.active:
            why = "as in a virtual machine with one GPU, or without a bridge"
        elif not gpu.active:
            why = "as without a bridge"
        else:
            continue
        yield NodeFinding(
            kind="nvlinks-unused",
            action=Action.KEEP,
            where=gpu.where,
            found=f"{len(gpu.active)} of {len(gpu.links)} NVLinks are up, {why}",
            next="nothing, if it was built like this",
            source=_PATTERN,
        )


def _fewer(gpus: Sequence[GpuLinks]) -> Iterator[NodeFinding]:
    """GPUs that show fewer links than their board has."""
    for gpu in gpus:
        board = gpu.board
        if board is None or not gpu.active or len(gpu.links) >= board.nvlinks:
            continue
        # A text may be cut off.
        if any(fact.kind == "absent" for fact in gpu.unread):
            continue
        if board.bridged and not gpu.down:
            continue
        yield _finding(
            "nvlinks-missing",
            gpu.where,
            f"{len(gpu.links)} NVLinks exist, and {board.name} has {board.nvlinks}",
            "drain the node and reset the GPU; if they stay away, replace the board",
            (f"links {ranges(link.number for link in gpu.links)}",),
        )


def _finding(kind: str, where: str, found: str, next_step: str, evidence: tuple[str, ...]) -> NodeFinding:
    return NodeFinding(
        kind=kind,
        action=Action.DRAIN,
        where=where,
        found=found,
        next=next_step,
        source=_PATTERN,
        evidence=evidence,
    )


def _unread(gpu: GpuLinks, now: LinkFacts) -> Iterator[tuple[str, NotRead]]:
    if gpu.mig:
        if gpu.links or gpu.supported:
            yield gpu.where, NotRead("the NVLinks", "MIG is on: NVLinks are off by design", matters=False)
        return
    for fact in gpu.unread:
        if fact.kind == "unsupported" and fact.what == STATES:
            # One GPU in a virtual machine has none to show; on a whole board they have to be there.
            expected = gpu.board is not None and not gpu.board.bridged and len(now) > 1
            if expected:
                yield gpu.where, NotRead(fact.what, "not supported here, though the board has them")
            continue
        yield (
            gpu.where,
            NotRead(fact.what, fact.text, matters=(fact.what, fact.kind) != (ERRORS, "unsupported")),
        )


def _why_nothing(now: LinkFacts) -> str:
    if any(gpu.mig for gpu in now):
        return "MIG is on: NVLinks are off by design"
    return "no GPU here shows NVLinks, as on PCIe boards and in virtual machines"


def _numbers(readings: Sequence[GpuReading[LinkFacts]], judged: Sequence[GpuLinks]) -> Iterator[NodeNumber]:
    for gpu in judged:
        yield NodeNumber("nvlinks_active", len(gpu.active), gpu_label(gpu.where))
    if len(readings) < 2:  # noqa: PLR2004 - a change needs two
        return
    grown, _ = moving_links(readings)
    marked = {
        (gpu.where, link.number)
        for gpu in readings[-1].facts
        for link in gpu.links
        if any(link.counters.values())
    }
    yield NodeNumber("nvlinks_with_new_errors", len({place[:2] for place in grown}))
    if marked:
        moving = {place[:2] for place in grown} & marked
        yield NodeNumber("nvlink_errors_still_moving", len(moving) / len(marked))


def _settings(now: LinkFacts) -> dict[str, str]:
    if not any(gpu.links for gpu in now):
        return {}
    versions = [same_on_all(link.version for link in gpu.links if link.version is not None) for gpu in now]
    return known_settings(
        {
            "active NVLinks": same_on_all(str(len(gpu.active)) for gpu in now),
            "NVLink version": same_on_all(versions),
        }
    )


def _shown(gpu: GpuLinks) -> dict[str, object]:
    """The facts of one GPU in JSON."""
    return {
        "active": list(gpu.active),
        "down": list(gpu.down),
        "remote": sorted({link.remote for link in gpu.links if link.remote is not None}),
        "errors": {
            str(link.number): {key: count for key, count in link.counters.items() if count}
            for link in gpu.links
            if any(link.counters.values())
        },
    }


GROUP = GpuGroup("links", read_links, judge_links, parse=parse_links)
