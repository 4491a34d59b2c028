"""Errors of NVLinks that come while a node is watched. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from runner.base.words import counted, ranges
from runner.node.findings import Action, NodeFinding
from runner.node.gpu.group import GpuReading
from runner.node.gpu.links_facts import COUNTER_BY_KEY, GpuLinks, LinkCounter, LinkFacts

# DCGM_LIMIT_MAX_NVLINK_CRC_ERROR.
_CRC_A_SECOND = 100.0
# NVIDIA's resiliency extension calls a link bad that had errors in more than 15 of 30 windows.
_MOST_OF = 0.5

# The GPU, the number of the link, the key of the counter.
_Place = tuple[str, int, str]


def moving_links(readings: Sequence[GpuReading[LinkFacts]]) -> tuple[dict[_Place, int], dict[_Place, int]]:
    """By how much each counter grew, and between how many readings it did."""
    grown: Counter[_Place] = Counter()
    times: Counter[_Place] = Counter()
    for before, after in pairwise(readings):
        then = _totals(before.facts)
        for place, now in _totals(after.facts).items():
            if place not in then:
                continue
            # A counter that fell was reset meanwhile, and counts from zero.
            change = now if now < then[place] else now - then[place]
            if change:
                grown[place] += change
                times[place] += 1
    return dict(grown), dict(times)


def errors_while_watched(readings: Sequence[GpuReading[LinkFacts]]) -> Iterator[NodeFinding]:
    """One finding for each counter of each GPU that grew, with its links."""
    grown, times = moving_links(readings)
    seconds = max(readings[-1].at_s - readings[0].at_s, 1e-9)
    together: dict[tuple[str, str, bool], list[_Place]] = {}
    for place, change in grown.items():
        counter = COUNTER_BY_KEY[place[2]]
        bad = _is_bad(counter, change / seconds, times[place] / (len(readings) - 1))
        together.setdefault((place[0], place[2], bad), []).append(place)
    for (where, key, bad), places in together.items():
        counter, links = COUNTER_BY_KEY[key], sorted(link for _, link, _ in places)
        often = max(times[place] for place in places)
        peer = "the other end is the suspect; " if key == "remote" else ""
        yield NodeFinding(
            kind=f"nvlink-{key}-now".replace("_", "-"),
            action=Action.DRAIN if bad else Action.KEEP,
            where=f"{where}, NVLink {ranges(links)}",
            found=f"{sum(grown[place] for place in places)} {counter.said} in {seconds:.0f} s",
            next=(
                f"drain the node; {peer}reset the GPUs and watch again under load, then reseat or replace the board"
                if bad
                else "watch it again under load; nothing now"
            ),
            source=counter.source,
            evidence=(f"{counter.smi}: grew in {often} of {counted(len(readings) - 1, 'interval')}",),
        )


def errors_before(now: LinkFacts) -> Iterator[NodeFinding]:
    """A note for each GPU whose counters are not zero in a single reading: when that was is unknown."""
    for gpu in now:
        sums: Counter[str] = Counter()
        links: set[int] = set()
        for link in gpu.links:
            for key, count in link.counters.items():
                if count:
                    sums[COUNTER_BY_KEY[key].said] += count
                    links.add(link.number)
        if sums:
            yield _note(gpu, sums, links)


def _note(gpu: GpuLinks, sums: Counter[str], links: set[int]) -> NodeFinding:
    told = ", ".join(f"{count} {said}" for said, count in sums.most_common(3))
    return NodeFinding(
        kind="nvlink-errors-before",
        action=Action.KEEP,
        where=gpu.where,
        found=f"{told} since the driver was loaded (NVLink {ranges(links)})",
        next="watch the counters under load (--watch 60): only a change now tells of a failing link",
        source="chosen here: a counter is judged by its change, not by its age",
    )


def _is_bad(counter: LinkCounter, a_second: float, share: float) -> bool:
    if counter.weight == "hard":
        return True
    if counter.weight == "rate":
        return a_second >= _CRC_A_SECOND
    return share > _MOST_OF


def _totals(facts: LinkFacts) -> dict[_Place, int]:
    return {
        (gpu.where, link.number, key): count
        for gpu in facts
        for link in gpu.links
        for key, count in link.counters.items()
    }
