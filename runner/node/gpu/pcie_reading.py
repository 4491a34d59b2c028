"""The PCIe link of each GPU, and its error counters, as NVML reports them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.hardware.nvml import utilisation_of
from runner.node.findings import NotRead
from runner.node.gpu.asking import NvmlAsker, OpenGpu

# Fields of nvmlDeviceGetFieldValues: NVML_FI_DEV_PCIE_*. Totals since the driver was loaded.
_COUNTERS: Mapping[str, int] = {
    "replays": 94,
    "replay rollovers": 95,
    "correctable": 173,
    "NAKs received": 174,
    "receiver errors": 175,
    "bad TLPs": 176,
    "NAKs sent": 177,
    "bad DLLPs": 178,
    "non-fatal": 179,
    "fatal": 180,
    "unsupported requests": 181,
    "LCRC errors": 182,
    "lane errors": 183,
}
_CURRENT, _MOST = "nvmlDeviceGetCurrPcieLink", "nvmlDeviceGetMaxPcieLink"
# PCIe 7.0 has generation 7; links have up to 32 lanes. Virtual machines answer 0, and old drivers 2³² - 1.
_DESKTOP = re.compile(r"GeForce|\bRTX\b|Quadro|TITAN|Laptop|Max-Q|\bGB10\b")
_GENERATIONS, _WIDTHS = range(1, 8), (1, 2, 4, 8, 12, 16, 32)


@dataclass(frozen=True, kw_only=True)
class GpuPcie:
    """The link of one GPU at one moment; None is unknown.

    Attributes:
        board_name: the board's row in `hardware.boards`, if it has one and is not a PCIe card.
        saves_power: a board of a laptop, a desktop or a workstation, which may use fewer lanes while it is idle.
        most_generation, most_width: what this GPU and its slot can do together.
        counters: by what they count; only those that this board counts.
        utilisation: 0 to 1.
    """

    index: int
    name: str = ""
    bus_id: str | None = None
    board_name: str | None = None
    saves_power: bool = False
    generation: int | None = None
    width: int | None = None
    most_generation: int | None = None
    most_width: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    utilisation: float | None = None
    not_read: tuple[NotRead, ...] = ()

    @property
    def where(self) -> str:
        """`GPU 3 (0000:1b:00.0)`."""
        return f"GPU {self.index}" + (f" ({self.bus_id})" if self.bus_id else "")


@dataclass(frozen=True)
class PcieFacts:
    """The links of all GPUs at one moment."""

    gpus: tuple[GpuPcie, ...]


def read_pcie(asker: NvmlAsker, gpus: Sequence[OpenGpu]) -> PcieFacts:
    """Read them."""
    return PcieFacts(tuple(_read(asker, gpu) for gpu in gpus))


def _read(asker: NvmlAsker, gpu: OpenGpu) -> GpuPcie:
    unread: list[NotRead] = []

    def link(call: str, valid: Sequence[int]) -> int | None:
        found = asker.ask(call, gpu.handle, of=gpu.where)
        if found in valid:
            return int(found)
        refusal = asker.refusal(call, gpu.where) if found is None else None
        why = refusal.text if refusal else f"it is given as {found}, as in some virtual machines"
        matters = refusal is not None and refusal.kind != "unsupported"
        unread.append(NotRead(f"{call} of {gpu.where}", why, matters))
        return None

    rates = asker.ask("nvmlDeviceGetUtilizationRates", gpu.handle, of=gpu.where)
    counters = {
        name: value
        for name, number in _COUNTERS.items()
        if (value := asker.field(gpu.handle, number, of=gpu.where)) is not None
    }
    if "replays" not in counters:
        replays = asker.ask("nvmlDeviceGetPcieReplayCounter", gpu.handle, of=gpu.where)
        counters |= {} if replays is None else {"replays": int(replays)}
    on_baseboard = gpu.board is not None and not gpu.board.bridged
    return GpuPcie(
        index=gpu.index,
        name=gpu.name,
        bus_id=gpu.bus_id,
        saves_power=bool(_DESKTOP.search(gpu.name)),
        board_name=gpu.board.name if gpu.board and on_baseboard else None,
        generation=link(f"{_CURRENT}Generation", _GENERATIONS),
        width=link(f"{_CURRENT}Width", _WIDTHS),
        most_generation=link(f"{_MOST}Generation", _GENERATIONS),
        most_width=link(f"{_MOST}Width", _WIDTHS),
        counters=counters,
        utilisation=utilisation_of(rates),
        not_read=tuple(unread),
    )
