"""How the GPUs of a node are wired, and whether that matches their board. Pure: no hardware access.

Wiring is what the driver reports (NVML, or the text of `nvidia-smi topo -m`). It does not show which transport NCCL
uses, and NCCL's environment variables cannot change a cell of the matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from runner.hardware.boards import Board

# Fabric states of NVML's nvmlGpuFabricState_t.
FABRIC_STATES = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}


@dataclass(frozen=True)
class GpuWiring:
    """One GPU's side of the wiring; `None` means unknown.

    Attributes:
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
class Pair:
    """The connection of two GPUs: `NV18`, or the PCIe path `PIX`, `PXB`, `PHB`, `NODE`, `SYS`; P2P status if known."""

    a: int
    b: int
    link: str
    p2p: str | None = None

    @property
    def nvlinks(self) -> int:
        """NVLinks between the two; 0 for a PCIe path."""
        return int(self.link[2:]) if self.link.startswith("NV") else 0


@dataclass(frozen=True)
class Topology:
    """The wiring of a node. `mig`: MIG is on for some GPU, so peer access between instances is off by design."""

    source: Literal["nvml", "text"]
    gpus: tuple[GpuWiring, ...]
    pairs: tuple[Pair, ...]
    mig: bool = False


@dataclass(frozen=True)
class WiringFault:
    """One fault in the wiring: where, what was found, what was expected, what to do next."""

    kind: Literal["links", "mesh", "fabric", "pcie", "p2p", "errors"]
    where: str
    found: str
    expected: str
    next: str
    symptom: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.found}, expected {self.expected}; {self.next}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on the wiring. Faults with `symptom` false are only notes."""

    faults: tuple[WiringFault, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Whether no fault is the symptom."""
        return not any(fault.symptom for fault in self.faults)


def expected_link(topology: Topology, board: Board | None) -> str | None:
    """The link every pair should have: the board's, or without a board that of a uniform NVLink mesh; else None."""
    if topology.mig:
        return None
    if board is not None:
        return f"NV{board.nvlinks}"
    kinds = {pair.link for pair in topology.pairs if pair.nvlinks}
    return kinds.pop() if len(kinds) == 1 else None


def judge(topology: Topology, board: Board | None) -> Verdict:
    """Compare the wiring with its board or, for an unknown board, with a uniform NVLink mesh."""
    return Verdict(
        (
            *_fabric_faults(topology.gpus),
            *_partition_faults(topology.gpus),
            *(_link_faults(topology, board) if board else ()),
            *_mesh_faults(topology, board),
            *_p2p_faults(topology),
            *_pcie_faults(topology.gpus),
            *_error_faults(topology.gpus),
        )
    )


def _fabric_faults(gpus: Sequence[GpuWiring]) -> list[WiringFault]:
    return [
        WiringFault(
            "fabric",
            f"GPU {gpu.index}",
            f"fabric state {gpu.fabric_state}" + (f" (error {gpu.fabric_error})" if gpu.fabric_error else ""),
            "completed without error",
            "check that Fabric Manager is running (on B200 also NVLSM, with ib_umad and mlx5_ib loaded)",
        )
        for gpu in gpus
        if gpu.fabric_state not in {None, "not supported", "completed"} or gpu.fabric_error
    ]


def _partition_faults(gpus: Sequence[GpuWiring]) -> list[WiringFault]:
    cliques = sorted({gpu.fabric_clique for gpu in gpus if gpu.fabric_clique is not None})
    found = [
        WiringFault(
            "fabric",
            f"GPU {gpu.index}",
            f"the fabric reports {', '.join(gpu.fabric_complaints)}",
            "no fault",
            "see the fabric section of nvidia-smi -q and the Fabric Manager log",
        )
        for gpu in gpus
        if gpu.fabric_complaints
    ]
    if len(cliques) > 1:
        members = "; ".join(
            f"partition {clique}: GPU {', '.join(str(gpu.index) for gpu in gpus if gpu.fabric_clique == clique)}"
            for clique in cliques
        )
        next_step = (
            "check the Fabric Manager partitions: GPUs in different partitions have no NVLink between them"
        )
        found.append(WiringFault("fabric", "node", members, "one partition", next_step))
    return found


def _link_faults(topology: Topology, board: Board) -> list[WiringFault]:
    if not topology.mig and all(gpu.links_active == 0 for gpu in topology.gpus):
        # The mesh check reports this as one fault, not one per GPU.
        return []
    return [
        WiringFault(
            "links",
            f"GPU {gpu.index}",
            f"{gpu.links_active} NVLinks active"
            + (f" (down: {', '.join(map(str, gpu.links_down))})" if gpu.links_down else ""),
            f"{board.nvlinks} on {board.name}",
            "check dmesg for NVLink errors (Xid 74, on B200 144 to 150), then drain the node and reseat the board",
        )
        for gpu in topology.gpus
        if gpu.links_active is not None and gpu.links_active != board.nvlinks
    ]


def _mesh_faults(topology: Topology, board: Board | None) -> list[WiringFault]:
    if not topology.pairs or topology.mig:
        return []
    kinds = sorted({pair.link for pair in topology.pairs})
    expected = (
        f"NV{board.nvlinks} for all pairs on {board.name}" if board else "the same NVLink count for all pairs"
    )
    if (
        len(kinds) == 1
        and topology.pairs[0].nvlinks
        and (board is None or topology.pairs[0].nvlinks == board.nvlinks)
    ):
        return []
    counts = ", ".join(f"{kind} × {sum(pair.link == kind for pair in topology.pairs)}" for kind in kinds)
    return [
        WiringFault(
            "mesh",
            "node",
            f"no uniform NVLink mesh ({counts})",
            expected,
            "the cause is wiring or fabric; no NCCL variable can change it"
            # NVML reports whether MIG is on; a pasted matrix does not.
            + (" (with MIG on, this is by design)" if topology.source == "text" else ""),
        )
    ]


def _p2p_faults(topology: Topology) -> list[WiringFault]:
    bad = [pair for pair in topology.pairs if pair.p2p not in {None, "ok"}]
    if not bad or topology.mig:
        return []
    first = bad[0]
    return [
        WiringFault(
            "p2p",
            f"GPU {first.a} and GPU {first.b}" + (f" and {len(bad) - 1} more pairs" if len(bad) > 1 else ""),
            f"peer access {first.p2p}",
            "ok",
            "check the IOMMU and ACS settings, and the driver's registry keys",
        )
    ]


def _pcie_faults(gpus: Sequence[GpuWiring]) -> list[WiringFault]:
    # An idle link drops to a lower generation to save power, so only the width is checked, and never as the symptom.
    return [
        WiringFault(
            "pcie",
            f"GPU {gpu.index}",
            f"PCIe ×{gpu.pcie_width}",
            f"×{gpu.pcie_max_width}",
            "reseat the board or its riser; a narrow link slows copies to and from the host",
            symptom=False,
        )
        for gpu in gpus
        if gpu.pcie_width and gpu.pcie_max_width and gpu.pcie_width < gpu.pcie_max_width
    ]


def _error_faults(gpus: Sequence[GpuWiring]) -> list[WiringFault]:
    return [
        WiringFault(
            "errors",
            f"GPU {gpu.index}",
            f"{gpu.link_errors} NVLink data-link errors since the driver was loaded",
            "none",
            "read the counters again under load; a growing count means a failing link",
            symptom=False,
        )
        for gpu in gpus
        if gpu.link_errors
    ]
