"""How the GPUs of a node are wired, and whether that is how their board should be wired. Pure: no hardware here.

Wiring is what the driver reports (NVML, or the text of `nvidia-smi topo -m`). It says nothing about what NCCL makes
of it: NCCL's environment cannot change a cell of the matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from runner.hardware.boards import Board

# Fabric states of NVML's nvmlGpuFabricState_t.
FABRIC_STATES = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}


@dataclass(frozen=True)
class GpuWiring:
    """One GPU's side of the wiring; `None` where the source does not say.

    Attributes:
        links_down: NVLinks that exist and are not active, by number.
        link_errors: sum of the data-link error counters (replay, recovery, CRC) since the driver was loaded.
        fabric_state: of `FABRIC_STATES`.
        fabric_error: NVML's status of the fabric registration; 0 is success.
        fabric_clique: which partition of the fabric it belongs to.
        fabric_complaints: what the fabric's health mask says is wrong.
        pcie_generation, pcie_width: of the link as it is now; an idle one lowers its generation.
        numa_node: whose memory is near.
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
    """The connection of two GPUs: `NV18`, or the PCIe path `PIX`, `PXB`, `PHB`, `NODE`, `SYS`; P2P if known."""

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
    """The wiring of a node. `mig`: some GPU is split, so peer access between instances is off by design."""

    source: Literal["nvml", "text"]
    gpus: tuple[GpuWiring, ...]
    pairs: tuple[Pair, ...]
    mig: bool = False


@dataclass(frozen=True)
class WiringFault:
    """One thing about the wiring that is not as it should be: where, found against expected, what to do next."""

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
    """What the wiring amounts to. `faults` with `symptom` false are worth a look and decide nothing."""

    faults: tuple[WiringFault, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """No fault that amounts to the symptom."""
        return not any(fault.symptom for fault in self.faults)


def expected_link(topology: Topology, board: Board | None) -> str | None:
    """What every pair should read: the board's own, or without a board the word of a uniform NVLink mesh; else None."""
    if topology.mig:
        return None
    if board is not None:
        return f"NV{board.nvlinks}"
    kinds = {pair.link for pair in topology.pairs if pair.nvlinks}
    return kinds.pop() if len(kinds) == 1 else None


def judge(topology: Topology, board: Board | None) -> Verdict:
    """Hold the wiring against its board, or, for an unknown board, against one uniform NVLink mesh."""
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
            "check that Fabric Manager runs (and on B200 NVLSM, with ib_umad and mlx5_ib loaded)",
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
            "a healthy fabric",
            "read the fabric section of nvidia-smi -q and Fabric Manager's log",
        )
        for gpu in gpus
        if gpu.fabric_complaints
    ]
    if len(cliques) > 1:
        members = "; ".join(
            f"partition {clique}: GPU {', '.join(str(gpu.index) for gpu in gpus if gpu.fabric_clique == clique)}"
            for clique in cliques
        )
        next_step = "look at Fabric Manager's partitions: GPUs of two of them have no NVLink to each other"
        found.append(WiringFault("fabric", "node", members, "one partition", next_step))
    return found


def _link_faults(topology: Topology, board: Board) -> list[WiringFault]:
    if not topology.mig and all(gpu.links_active == 0 for gpu in topology.gpus):
        # One fault, which the mesh names, not one a GPU.
        return []
    return [
        WiringFault(
            "links",
            f"GPU {gpu.index}",
            f"{gpu.links_active} NVLinks active"
            + (f" (down: {', '.join(map(str, gpu.links_down))})" if gpu.links_down else ""),
            f"{board.nvlinks} on {board.name}",
            "look for NVLink errors in dmesg (Xid 74 and 149 and later) and reseat or drain the node",
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
            "this is wiring or fabric, and no NCCL variable changes it"
            # NVML says whether GPUs are split; a pasted matrix does not.
            + (" (GPUs split by MIG would read so by design)" if topology.source == "text" else ""),
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
            "check IOMMU and ACS settings, and the driver's registry keys",
        )
    ]


def _pcie_faults(gpus: Sequence[GpuWiring]) -> list[WiringFault]:
    # An idle link lowers its generation to save power, so only a narrow link is a finding, and never the symptom.
    return [
        WiringFault(
            "pcie",
            f"GPU {gpu.index}",
            f"PCIe ×{gpu.pcie_width}",
            f"×{gpu.pcie_max_width}",
            "reseat the board or its riser: a narrow link slows host copies",
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
            "read the counters again under load: a count that grows is a failing link",
            symptom=False,
        )
        for gpu in gpus
        if gpu.link_errors
    ]
