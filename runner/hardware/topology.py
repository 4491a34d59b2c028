"""How the GPUs of a node are wired. Pure: no hardware access.

Wiring is what the driver reports (NVML, or the text of `nvidia-smi topo -m`). It does not show which transport NCCL
uses, and NCCL's environment variables cannot change a cell of the matrix.
"""

from dataclasses import dataclass
from typing import Literal

UNKNOWN = "unknown"
# Fabric states of NVML's nvmlGpuFabricState_t.
FABRIC_STATES = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}


@dataclass(frozen=True)
class GpuWiring:
    """One GPU's side of the wiring; `None` means unknown.

    Attributes:
        links_active: NVLinks that are up.
        links_down: NVLinks that exist and are not active, by number.
        link_errors: sum of the data-link error counters (replay, recovery, CRC) since the driver was loaded.
        fabric_state: of `FABRIC_STATES`.
        fabric_error: NVML's status of the fabric registration; 0 is success.
        fabric_clique: the fabric partition it belongs to.
        fabric_complaints: faults in the fabric's health mask.
        pcie_generation, pcie_width: current values of the link; an idle link drops to a lower generation.
        numa_node: the nearest NUMA node.
    """

    index: int
    links_active: int | None = None
    links_down: tuple[int, ...] = ()
    link_errors: int | None = None
    fabric_state: str | None = None
    fabric_error: int | None = None
    fabric_clique: int | None = None
    fabric_complaints: tuple[str, ...] = ()
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_generation: int | None = None
    pcie_max_width: int | None = None
    numa_node: int | None = None


@dataclass(frozen=True)
class GpuPair:
    """The connection of two GPUs: `NV18`, or the PCIe path `PIX`, `PXB`, `PHB`, `NODE`, `SYS`; else `unknown`.

    `p2p` is the status of peer access, `ok` or why there is none; None if it is not known.
    """

    a: int
    b: int
    link: str
    p2p: str | None = None

    @property
    def nvlinks(self) -> int:
        """NVLinks between the two; 0 for a PCIe path."""
        return int(self.link[2:]) if self.link.startswith("NV") else 0

    @property
    def known(self) -> bool:
        """Whether the driver told how the two are connected."""
        return self.link != UNKNOWN


@dataclass(frozen=True)
class Topology:
    """The wiring of a node. `mig`: MIG is on for some GPU, so peer access between instances is off by design."""

    source: Literal["nvml", "text"]
    gpus: tuple[GpuWiring, ...]
    pairs: tuple[GpuPair, ...]
    mig: bool = False
