"""The PCIe links above GPUs and adapters: which run with fewer lanes or slower than both of their ends allow. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runner.node.findings import Action, NodeFinding
from runner.node.host.pci_reading import DISPLAY, PciDevice, PciFacts

RESEAT = "drain the node; reseat the card or its riser and check the slot; look for AER lines in dmesg"
_LINKS = "PCIe: a link trains to what both ends allow; chosen here: beside an equal device with all lanes"


def links_above(device: PciDevice, bridges: Mapping[str, PciDevice]) -> Sequence[tuple[PciDevice, PciDevice]]:
    """The links from the root port down to the device, as pairs of their upper and lower end.

    Root port and downstream ports alternate with upstream ports and the device. Where they do not (a device of the
    root complex, a bridge that is hidden), there are no pairs.
    """
    chain = [bridges[one] for one in device.above if one in bridges] + [device]
    if len(chain) != len(device.above) + 1 or len(chain) % 2:
        return ()
    return list(zip(chain[::2], chain[1::2], strict=True))


_VIRTUAL = (
    "in a virtual machine ask the provider, since the link may be made up; else compare with an equal node"
)
_LOAD = "look again under load: gpu_state --group pcie --watch 60 --load"
_COMPARE = "compare with a node of the same kind: no equal adapter here shows what the slot can do"


def _has_full_equal(device: PciDevice, facts: PciFacts) -> bool:
    """Whether a GPU or adapter of the same driver, made for the same link, runs with all lanes here.

    An adapter has its full speed then too. Of GPUs speed and width may be reduced while they are not in use (manual of
    nvidia-smi), which shows on equal ones alike.
    """
    return any(
        (one.driver, one.kind, one.most_width, one.most_speed)
        == (device.driver, device.kind, device.most_width, device.most_speed)
        and one.width == one.most_width
        and (one.is_gpu or one.speed == one.most_speed)
        for one in (facts.gpus if device.is_gpu else facts.nics)
        if one.address != device.address
    )


def _ends(facts: PciFacts) -> Iterable[tuple[PciDevice, PciDevice, tuple[PciDevice, ...]]]:
    """Each link once, with the GPUs and adapters below it."""
    below: dict[tuple[str, str], list[PciDevice]] = {}
    pairs = {}
    for device in (*facts.gpus, *facts.nics):
        for upper, lower in links_above(device, facts.bridges):
            key = (upper.address, lower.address)
            pairs[key] = (upper, lower)
            below.setdefault(key, []).append(device)
    return [(*pairs[key], tuple(below[key])) for key in pairs]


def narrow_links(facts: PciFacts) -> Iterable[NodeFinding]:
    """Links with fewer lanes than both ends have.

    Some are only noted: those of a virtual machine (or where that is not known), those of a display adapter, which may
    switch lanes off while it is idle, those of several adapters alike, such as the management ports of a baseboard, and
    those of a GPU or an adapter without an equal one that runs with all lanes.
    """
    narrow = [
        (upper, lower, below, now, most)
        for upper, lower, below in _ends(facts)
        if not (upper.removable or lower.removable)
        if (now := lower.width if lower.width is not None else upper.width) is not None
        if (most := _smaller(upper.most_width, lower.most_width)) is not None and now < most
    ]
    alike = Counter((now, most) for _, lower, _, now, most in narrow if lower.is_fast_nic)
    for upper, lower, below, now, most in narrow:
        if facts.virtual is not False:
            harmless = _VIRTUAL
        elif lower.is_gpu and lower.kind.startswith(DISPLAY):
            # GPUs for servers have another class.
            harmless = _LOAD
        elif lower.is_gpu and not _has_full_equal(lower, facts):
            harmless = _LOAD
        elif lower.is_fast_nic and alike[now, most] > 1:
            harmless = "compare with a node of the same kind: several adapters alike may be wired so"
        elif lower.is_fast_nic and not _has_full_equal(lower, facts):
            harmless = _COMPARE
        else:
            harmless = None
        yield NodeFinding(
            kind="pcie-link-narrow",
            action=Action.DRAIN if harmless is None else Action.KEEP,
            where=_place(below, facts),
            found=f"the link {upper.address} to {lower.address} runs x{now}, both ends can do x{most:g}",
            next=harmless or RESEAT,
            source=_LINKS,
            evidence=(link_text(upper), link_text(lower)),
        )


def slow_links(facts: PciFacts) -> Iterable[NodeFinding]:
    """Links that are slower than both ends can; not those of GPUs, which slow down while idle."""
    for upper, lower, below in _ends(facts):
        now = lower.speed if lower.speed is not None else upper.speed
        most = _smaller(upper.most_speed, lower.most_speed)
        if now is None or most is None or now >= most or lower.is_gpu or upper.removable or lower.removable:
            continue
        if facts.virtual is not False:
            harmless = _VIRTUAL
        elif lower.is_fast_nic and not _has_full_equal(lower, facts):
            harmless = _COMPARE
        else:
            harmless = None
        yield NodeFinding(
            kind="pcie-link-slow",
            action=Action.DRAIN if harmless is None else Action.KEEP,
            where=_place(below, facts),
            found=f"the link {upper.address} to {lower.address} runs at {now:g} GT/s, both ends can do {most:g}",
            next=harmless or RESEAT,
            source="PCIe: a link trains to what both ends allow; only GPUs slow theirs down while idle",
            evidence=(link_text(upper), link_text(lower)),
        )


def _smaller(one: float | None, other: float | None) -> float | None:
    """The smaller maximum; None unless both are known, since one end alone may promise more than the slot has."""
    return None if one is None or other is None else min(one, other)


def device_name(device: PciDevice, facts: PciFacts) -> str:
    """`GPU 0000:1b:00.0`."""
    kind = "GPU" if device in facts.gpus else "adapter" if device in facts.nics else "bridge"
    return f"{kind} {device.address}"


def _place(devices: Sequence[PciDevice], facts: PciFacts) -> str:
    more = f" and {len(devices) - 1} more below the link" if len(devices) > 1 else ""
    return device_name(devices[0], facts) + more


def link_text(device: PciDevice) -> str:
    """`0000:1b:00.0: 16 GT/s x8 of 32 GT/s x16`."""

    def of(speed: float | None, width: int | None) -> str:
        return f"{'?' if speed is None else f'{speed:g}'} GT/s x{'?' if width is None else width}"

    now, most = of(device.speed, device.width), of(device.most_speed, device.most_width)
    return f"{device.address}: {now} of {most}"
