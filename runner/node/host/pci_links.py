"""The PCIe links above GPUs and adapters: which run with fewer lanes or slower than both of their ends allow. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runner.node.findings import Action, NodeFinding
from runner.node.host.pci_reading import DISPLAY, PciDevice, PciFacts

RESEAT = "drain the node; reseat the card or its riser and check the slot; look for AER lines in dmesg"
_LINKS = "PCIe: a link trains to what both ends allow; chosen here: a server's link does not switch lanes off"


def links_above(device: PciDevice, bridges: Mapping[str, PciDevice]) -> Sequence[tuple[PciDevice, PciDevice]]:
    """The links from the root port down to the device, as pairs of their upper and lower end.

    Root port and downstream ports alternate with upstream ports and the device. Where they do not (a device of the
    root complex, a bridge that is hidden), there are no pairs.
    """
    chain = [bridges[one] for one in device.above if one in bridges] + [device]
    if len(chain) != len(device.above) + 1 or len(chain) % 2:
        return ()
    return list(zip(chain[::2], chain[1::2], strict=True))


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

    Three kinds are only noted: those of a virtual machine, those of a display adapter, which may switch lanes off while
    it is idle, and those of several adapters alike, such as the management ports of a baseboard.
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
        if facts.virtual:
            harmless = "ask the provider; the link may be made up"
        elif lower.is_gpu and lower.kind.startswith(DISPLAY):
            # GPUs for servers have another class.
            harmless = "look again under load: gpu_state --group pcie --watch 60 --load"
        elif lower.is_fast_nic and alike[now, most] > 1:
            harmless = "compare with a node of the same kind: several adapters alike may be wired so"
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
        yield NodeFinding(
            kind="pcie-link-slow",
            action=Action.KEEP if facts.virtual else Action.DRAIN,
            where=_place(below, facts),
            found=f"the link {upper.address} to {lower.address} runs at {now:g} GT/s, both ends can do {most:g}",
            next="ask the provider; the link may be made up" if facts.virtual else RESEAT,
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
