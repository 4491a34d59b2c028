"""What a watch shows of the clocks: time held back by the driver's counters, and clocks under load.

Readings once a second miss what lasts for milliseconds, so times are differences of counters. Clocks are judged only of
GPUs that are busy, since an idle GPU slows down by itself.
"""

from collections.abc import Iterable, Sequence
from statistics import median

from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.gpu.clocks_reading import (
    HARDWARE,
    HW_THERMAL,
    POWER_BRAKE,
    RELIABILITY,
    SET_CLOCKS,
    SW_POWER_CAP,
    SW_THERMAL,
    ClockFacts,
)
from runner.node.gpu.clocks_series import MOST_OF_THE_TIME, ClockSeries, clock_series
from runner.node.gpu.group import GpuReading

# Chosen: 0.6 s of a minute; a change of the clocks alone takes milliseconds.
_HARDWARE_SHARE = 0.01
# Chosen: slowed by heat for a tenth of the time costs more than what counts as even among ranks.
_HEAT_SHARE = 0.1
# Chosen: GPUs that run below their limit reach the same clock, within 5 %. At the limit boards of one kind differ by
# more, since the current of each chip differs; only those that fall behind by 15 % are named.
_PEERS, _PEERS_AT_LIMIT, _FEWEST = 0.95, 0.85, 3
# Chosen: some boards never reach the clock that NVML calls the highest, without any reason for it, but come near.
_HELD_CLOCK = 0.7
# Chosen: a power limit acts at the limit.
_FAR_BELOW_LIMIT = 0.8
_LOWERED = 0.99


def judge_clock_watch(readings: Sequence[GpuReading[ClockFacts]]) -> NodeVerdict:
    """The verdict on at least two readings, without what one reading shows."""
    series = [clock_series(readings, place) for place in range(len(readings[-1].facts.gpus))]
    seconds = readings[-1].at_s - readings[0].at_s
    findings: list[NodeFinding] = []
    for one in series:
        findings += [*_slowed_down(one), *_capped(one), *_set_low(one)]
    named = {one.where for one in findings if one.action is not Action.KEEP}
    named |= {one.last.where for one in series if _is_held(one)}
    findings += _behind_peers(series, named)
    busy = sum(bool(one.busy) for one in series)
    return NodeVerdict(
        findings=tuple(findings),
        not_read=tuple(_not_counted(readings[-1].facts, series, busy)),
        numbers=tuple(_numbers(series)),
        judged=f", watched for {seconds:.0f} s, {busy} of them busy",
        facts={"watched_s": seconds, "shares": {one.last.where: dict(one.shares) for one in series}},
    )


def _slowed_down(one: ClockSeries) -> Iterable[NodeFinding]:
    hardware, heat, gpu = one.hardware_share, one.heat_share, one.last
    if hardware and not _is_held(one):
        brake = one.shares.get("power brake", 0.0) == hardware
        what = "power brake" if brake else "hardware thermal slowdown"
        enough = hardware >= _HARDWARE_SHARE
        look = "power supplies and the power events of the BMC" if brake else "fans, air and heat sink"
        yield NodeFinding(
            kind="power-brake" if brake else "hardware-thermal-slowdown",
            action=Action.DRAIN if enough else Action.KEEP,
            where=gpu.where,
            found=f"{what} for {hardware:.2%} of the watch",
            next=f"drain the node; check {look}" if enough else "watch for longer, under load",
            source="gpud, hw-slowdown (2025): hardware inspection; chosen here: from 1 % of the time on",
        )
    if heat is not None and heat >= _HEAT_SHARE:
        hot = "" if gpu.temperature is None else f", at {gpu.temperature} °C"
        yield NodeFinding(
            kind="slowed-by-heat",
            action=Action.DRAIN,
            where=gpu.where,
            found=f"the driver held the clocks back because of heat for {heat:.0%} of the watch{hot}",
            next="drain the node; check fans, air and heat sink; compare with the other GPUs",
            source="NVML: the GPU or its memory is above its highest operating temperature; chosen here: from 10 % on",
        )


def _is_held(one: ClockSeries) -> bool:
    """A reading shows heat or power brake that stays: that is a finding of its own."""
    return any(reading.held & (HW_THERMAL | POWER_BRAKE) for reading in one.readings)


def _capped(one: ClockSeries) -> Iterable[NodeFinding]:
    gpu, share = one.last, one.shares.get("power cap")
    if share is None or share < MOST_OF_THE_TIME or not one.busy:
        return
    if gpu.in_force is not None and gpu.default is not None and gpu.in_force < _LOWERED * gpu.default:
        yield NodeFinding(
            kind="power-limit-lowered",
            action=Action.RESTART,
            where=gpu.where,
            found=(
                f"power limit {gpu.in_force:.0f} W, default {gpu.default:.0f} W, held the clocks for {share:.0%} of"
                " the watch"
            ),
            next=f"nvidia-smi -i {gpu.index} -pl {gpu.default:.0f}, unless the limit is your site's choice",
            source="chosen here: a lowered limit that acts costs speed",
        )
    elif one.draw is not None and one.draw < _FAR_BELOW_LIMIT:
        yield NodeFinding(
            kind="power-capped-below-limit",
            action=Action.KEEP,
            where=gpu.where,
            found=f"power capped for {share:.0%} of the watch, while it draws {one.draw:.0%} of its limit",
            next="compare with the other GPUs; look for power smoothing and for a cap of the BMC",
            source="chosen here: a power limit acts at the limit",
        )


def _set_low(one: ClockSeries) -> Iterable[NodeFinding]:
    gpu, clock = one.last, one.clock
    if clock is None or gpu.sm_max is None or clock >= _HELD_CLOCK * gpu.sm_max:
        return
    explained = one.bits & (HARDWARE | SW_POWER_CAP | SW_THERMAL | RELIABILITY)
    if (
        explained
        or one.shares.get("power cap", 0.0) >= MOST_OF_THE_TIME
        or (one.heat_share or 0) >= _HEAT_SHARE
    ):
        return
    how = "application clocks" if one.bits & SET_CLOCKS else "no reason is given"
    yield NodeFinding(
        kind="clock-held-low",
        action=Action.RESTART,
        where=gpu.where,
        found=f"busy at {clock:.0f} MHz of {gpu.sm_max} MHz, far below its power limit; {how}",
        next=f"nvidia-smi -i {gpu.index} -rgc; nvidia-smi -i {gpu.index} -rac; then watch again",
        source="chosen here: locked clocks cannot be read, and nothing else holds a busy GPU below 0.7 of its clock",
    )


def _peers(one: ClockSeries, series: Sequence[ClockSeries]) -> float | None:
    """Median clock of the GPUs that are as busy; None if there are fewer than three.

    One at its power limit is compared with those at theirs only: different work takes different clocks there.
    """
    alike = [
        other.clock
        for other in series
        if other.clock is not None
        and other.last.name == one.last.name
        and (not one.at_limit or (other.at_limit and other.last.in_force == one.last.in_force))
    ]
    return median(alike) if len(alike) >= _FEWEST else None


def _behind_peers(series: Sequence[ClockSeries], named: set[str]) -> Iterable[NodeFinding]:
    for one in series:
        clock, peers = one.clock, _peers(one, series)
        if clock is None or peers is None or one.last.where in named:
            continue
        ratio = clock / peers
        if ratio >= _PEERS:
            continue
        if one.at_limit:
            action = Action.DRAIN if ratio < _PEERS_AT_LIMIT else Action.KEEP
            advice = "compare temperatures; boards at their power limit differ by some per cent"
        else:
            action, advice = (
                Action.RESTART,
                f"nvidia-smi -i {one.last.index} -rgc, then watch again; if it stays, drain",
            )
        yield NodeFinding(
            kind="clock-below-peers",
            action=action,
            where=one.last.where,
            found=f"{clock:.0f} MHz under load, the median of its peers is {peers:.0f} MHz ({ratio:.2f})",
            next=advice,
            source="chosen here: within 5 % below the power limit, within 15 % at it, where boards of one kind differ",
        )


def _not_counted(facts: ClockFacts, series: Sequence[ClockSeries], busy: int) -> Iterable[NotRead]:
    if not facts.counts_hardware:
        yield NotRead(
            "time in hardware slowdown",
            "drivers before 580 do not count it under these numbers; only readings once a second were taken",
            matters=False,
        )
    for one in series:
        if not one.last.counters:
            yield NotRead(
                f"times of {one.last.where}", "this board or driver does not count them", matters=False
            )
        elif one.broken:
            yield NotRead(
                f"times of {one.last.where} ({', '.join(one.broken)})",
                "the counter ran back or faster than the time; the driver was reloaded, or counts in another unit",
                matters=False,
            )
    if not busy:
        yield NotRead("clocks under load", "no GPU was busy in the watch; use --load", matters=False)


def _numbers(series: Sequence[ClockSeries]) -> Iterable[NodeNumber]:
    ratios = []
    for one in series:
        labels = (("gpu", one.last.index),)
        if "power cap" in one.shares:
            yield NodeNumber("power_capped_share", one.shares["power cap"], labels)
        hardware = one.hardware_share
        if hardware is not None:
            yield NodeNumber("hardware_slowdown_share", hardware, labels)
        cool = one.cool_heat_share
        if cool is not None:
            yield NodeNumber("thermal_share_below_85", cool, labels)
        if one.clock is None:
            continue
        yield NodeNumber("loaded_sm_clock", one.clock * 1e6, labels)
        if one.drift is not None:
            yield NodeNumber("clock_last_over_first", one.drift, labels)
        peers = _peers(one, series)
        if peers:
            ratios.append(one.clock / peers)
    if ratios:
        yield NodeNumber("clock_over_peers", min(ratios))
