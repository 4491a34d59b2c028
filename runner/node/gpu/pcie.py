"""Group `pcie`: the PCIe link of each GPU.

NVIDIA says that width and generation may be reduced while a GPU is not in use, which then shows on equal GPUs alike. So
lanes that are missing are a fault under load, and at any time beside an equal GPU that has all of its lanes. The
generation is judged only of a busy GPU. NVML's maximum is that of the GPU and its slot together, so a narrow slot is no
fault of the GPU. Error counters are totals, and are judged by their change in a watch.
"""

from collections.abc import Iterable, Sequence
from statistics import mode

from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.gpu.group import GpuGroup, GpuReading
from runner.node.gpu.pcie_reading import GpuPcie, PcieFacts, read_pcie
from runner.node.gpu.together import known_settings, same_on_all

_RESEAT = "drain the node; reseat the GPU or its riser, check the slot; `runbook show pcie-numa-placement`"
# Chosen: a GPU this busy computes, and runs its link at full speed.
_BUSY, _FEWEST_BUSY = 0.5, 2
# Two that differ do not tell which is the usual one.
_FEWEST_ALIKE = 3
# Per minute; DCGM_LIMIT_MAX_PCIREPLAY_RATE of DCGM, as recommended by the developers of the driver.
_REPLAYS = 8
_UNCORRECTED = ("fatal", "non-fatal", "replay rollovers")


def judge_pcie(readings: Sequence[GpuReading[PcieFacts]]) -> NodeVerdict:
    """The verdict on one reading, or on those of a watch."""
    last = readings[-1].facts.gpus
    unread = tuple(one for gpu in last for one in gpu.not_read)
    known = [gpu for gpu in last if gpu.width is not None and gpu.most_width is not None]
    if not known and all(not one.matters for one in unread):
        return NodeVerdict(
            not_read=unread,
            not_applicable="no GPU here shows its PCIe link, as in virtual machines that hide it",
        )
    series = [tuple(one.facts.gpus[place] for one in readings) for place in range(len(last))]
    seconds = readings[-1].at_s - readings[0].at_s
    findings = [*_narrow(series), *_different(last), *_slow(series)]
    if seconds:
        findings += [one for gpus in series for one in _errors(gpus, seconds)]
    findings += [one for gpu in last for one in _old_errors(gpu, watched=seconds > 0)]
    return NodeVerdict(
        findings=tuple(findings),
        not_read=unread + tuple(_not_judged(series, seconds)),
        numbers=tuple(_numbers(series, seconds)),
        judged=f"width of {len(known)} PCIe links" + (f", and errors for {seconds:.0f} s" if seconds else ""),
        facts={
            "gpus": [
                {"gpu": gpu.index, "now": _link(gpu.generation, gpu.width), "most": _most(gpu)}
                | {"counters": dict(gpu.counters)}
                for gpu in last
            ]
        },
        settings=_settings(last),
    )


def _narrow(series: Sequence[tuple[GpuPcie, ...]]) -> Iterable[NodeFinding]:
    for gpus in series:
        widths = [one.width for one in gpus if one.width is not None]
        most = gpus[-1].most_width
        if not widths or most is None or min(widths) >= most:
            continue
        loaded = [one.width for one in gpus if (one.utilisation or 0) >= _BUSY and one.width is not None]
        alone = gpus[-1].saves_power or not _has_full_equal(gpus[-1], [one[-1] for one in series])
        saves = alone and not (loaded and max(loaded) < most)
        yield NodeFinding(
            kind="pcie-link-narrow",
            action=Action.KEEP if saves else Action.DRAIN,
            where=gpus[-1].where,
            found=f"PCIe link x{min(widths)}, GPU and slot can do x{most}"
            + (" (not all the time)" if max(widths) >= most else ""),
            next="look again under load: --watch 60 --load" if saves else _RESEAT,
            source=(
                "nvidia-smi manual: the width may be reduced while the GPU is not in use"
                if saves
                else "NVML: the maximum is that of GPU and system; chosen here: busy, or an equal GPU has all lanes"
            ),
        )


def _has_full_equal(gpu: GpuPcie, gpus: Sequence[GpuPcie]) -> bool:
    """Whether another GPU of the same name and maximum has all lanes; a board of `hardware.boards` or any other."""
    return any(
        (one.name, one.most_width) == (gpu.name, gpu.most_width) and one.width == one.most_width
        for one in gpus
        if one.index != gpu.index
    )


def _different(gpus: Sequence[GpuPcie]) -> Iterable[NodeFinding]:
    """GPUs of one baseboard have equal slots; of PCIe cards that is not so."""
    for name in {gpu.board_name for gpu in gpus} - {None}:
        alike = [gpu for gpu in gpus if gpu.board_name == name and gpu.most_width and gpu.most_generation]
        if len(alike) < _FEWEST_ALIKE:
            continue
        usual = mode((gpu.most_generation or 0, gpu.most_width or 0) for gpu in alike)
        for gpu in alike:
            if (gpu.most_generation or 0) < usual[0] or (gpu.most_width or 0) < usual[1]:
                yield NodeFinding(
                    kind="pcie-slot-limited",
                    action=Action.DRAIN,
                    where=gpu.where,
                    found=f"its slot is limited to {_most(gpu)}, the slots of the other {name} to {_link(*usual)}",
                    next="drain the node; check the BIOS setting of the slot, then reseat",
                    source="chosen here: slots of one baseboard are equal",
                )


def _loaded(gpus: Sequence[GpuPcie]) -> list[GpuPcie]:
    return [one for one in gpus if (one.utilisation or 0) >= _BUSY and one.generation is not None]


def _slow(series: Sequence[tuple[GpuPcie, ...]]) -> Iterable[NodeFinding]:
    for gpus in series:
        busy, most = _loaded(gpus), gpus[-1].most_generation
        if len(busy) < _FEWEST_BUSY or most is None:
            continue
        fastest = max(one.generation or 0 for one in busy)
        if fastest < most:
            yield NodeFinding(
                kind="pcie-link-slow",
                action=Action.DRAIN,
                where=gpus[-1].where,
                found=f"PCIe generation {fastest} in all {len(busy)} readings under load, possible is {most}",
                next=_RESEAT,
                source="chosen here: a busy GPU runs its link at full speed",
            )


def _errors(gpus: Sequence[GpuPcie], seconds: float) -> Iterable[NodeFinding]:
    moved = _moved(gpus)
    grave = {name: moved[name] for name in _UNCORRECTED if moved.get(name, 0) > 0}
    if 0 < grave.get("non-fatal", 0) <= moved.get("unsupported requests", 0):
        # A tool that reads a register which the device does not have causes these, without a fault of the link.
        del grave["non-fatal"]
    if grave:
        yield NodeFinding(
            kind="pcie-errors-uncorrected",
            action=Action.DRAIN,
            where=gpus[-1].where,
            found=", ".join(f"{count} PCIe {name}" for name, count in grave.items()) + f" in {seconds:.0f} s",
            next=_RESEAT,
            source="PCIe: not corrected by the link; chosen here: none may occur in a watch",
        )
    # In less than a minute as many as are allowed in one.
    replays = moved.get("replays", 0)
    if replays > _REPLAYS * max(1.0, seconds / 60):
        yield NodeFinding(
            kind="pcie-replays",
            action=Action.DRAIN,
            where=gpus[-1].where,
            found=f"{replays} PCIe replays in {seconds:.0f} s",
            next=_RESEAT,
            source="DCGM, DCGM_LIMIT_MAX_PCIREPLAY_RATE: at most 8 a minute",
            evidence=tuple(f"{name}: +{count}" for name, count in moved.items() if count > 0),
        )
    elif any(count > 0 for count in moved.values()) and not grave:
        yield NodeFinding(
            kind="pcie-errors-corrected",
            action=Action.KEEP,
            where=gpus[-1].where,
            found=", ".join(f"{name} +{count}" for name, count in moved.items() if count > 0),
            next="nothing now; the link corrected them",
            source="DCGM, DCGM_LIMIT_MAX_PCIREPLAY_RATE: up to 8 replays a minute",
        )


def _moved(gpus: Sequence[GpuPcie]) -> dict[str, int]:
    """How far each counter moved; without those that ran back."""
    before, after = gpus[0].counters, gpus[-1].counters
    return {
        name: value - before[name]
        for name, value in after.items()
        if name in before and value >= before[name]
    }


def _old_errors(gpu: GpuPcie, *, watched: bool) -> Iterable[NodeFinding]:
    fatal = gpu.counters.get("fatal", 0)
    if fatal and not watched:
        yield NodeFinding(
            kind="pcie-errors-before",
            action=Action.KEEP,
            where=gpu.where,
            found=f"{fatal} fatal PCIe errors since the driver was loaded",
            next="watch it: gpu_state --group pcie --watch 60 --load; look for AER lines in dmesg",
            source="chosen here: a total does not tell when",
        )


def _not_judged(series: Sequence[tuple[GpuPcie, ...]], seconds: float) -> Iterable[NotRead]:
    if not seconds:
        yield NotRead(
            "PCIe generation under load, and errors",
            "one reading does not show them; use --watch 60 --load",
            matters=False,
        )
        return
    idle = [gpus[-1] for gpus in series if len(_loaded(gpus)) < _FEWEST_BUSY]
    if idle:
        yield NotRead(
            f"PCIe generation of {idle[0].where}" + (f" and {len(idle) - 1} more" if len(idle) > 1 else ""),
            "it was not busy, and an idle link slows down; use --load",
            matters=False,
        )
    if not any(gpus[-1].counters for gpus in series):
        yield NotRead("PCIe errors", "these boards do not count them", matters=False)


def _numbers(series: Sequence[tuple[GpuPcie, ...]], seconds: float) -> Iterable[NodeNumber]:
    for gpus in series:
        last, labels = gpus[-1], (("gpu", gpus[-1].index),)
        if last.width is not None and last.most_width:
            yield NodeNumber("pcie_width_share", min(1.0, last.width / last.most_width), labels)
        fastest = max((one.generation for one in gpus if one.generation is not None), default=None)
        if fastest is not None and last.most_generation:
            yield NodeNumber("pcie_generation_share", min(1.0, fastest / last.most_generation), labels)
        if seconds and "replays" in _moved(gpus):
            yield NodeNumber("pcie_replays_per_minute", 60 * _moved(gpus)["replays"] / seconds, labels)


def _settings(gpus: Sequence[GpuPcie]) -> dict[str, str]:
    links = (None if gpu.most_width is None else _most(gpu) for gpu in gpus)
    return known_settings({"PCIe link, highest": same_on_all(links)})


def _most(gpu: GpuPcie) -> str:
    return _link(gpu.most_generation, gpu.most_width)


def _link(generation: int | None, width: int | None) -> str:
    return f"Gen{generation or '?'} x{width or '?'}"


GROUP = GpuGroup("pcie", read_pcie, judge_pcie)
