"""Whether the wiring of a node matches its board. Pure.

Boards on switches (HGX with eight GPUs) show the same `NV<n>` for all pairs. Other healthy wirings differ by pair: the
cube mesh of a DGX-1, two sockets of a POWER9 node, pairs of boards with bridges, boards without NVLink. Without the
name of the board, these cannot be told from a fault, and the verdict is unknown.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from runner.hardware.boards import Board
from runner.hardware.topology import GpuPair, GpuWiring, Topology

# No GPU up to Blackwell has more; if its pairs show more together, its links end at switches and reach every GPU.
_MOST_LINKS = 18
_NO_FABRIC = frozenset({None, "not supported"})
_NAME_IT = "name the board with --board to judge it"


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
class WiringVerdict:
    """The verdict on the wiring. Faults with `symptom` false are only notes.

    `unknown` says why the wiring between the GPUs cannot be judged; None if it can.
    """

    faults: tuple[WiringFault, ...] = field(default=())
    unknown: str | None = None

    @property
    def symptom(self) -> bool:
        """Whether a fault is the symptom."""
        return any(fault.symptom for fault in self.faults)

    @property
    def healthy(self) -> bool:
        """Whether the wiring was judged and no fault is the symptom."""
        return not self.symptom and self.unknown is None


def expected_link(topology: Topology, board: Board | None) -> str | None:
    """The link that every pair should have; None if pairs may differ, or nothing is known about them."""
    if topology.mig:
        return None
    kinds = {pair.link for pair in topology.pairs if pair.nvlinks}
    if board is None:
        return kinds.pop() if len(kinds) == 1 else None
    if board.bridged:
        return None
    found = next(iter(kinds)) if len(kinds) == 1 else ""
    return found if found in _allowed(board, len(topology.gpus)) else f"NV{board.nvlinks}"


def _allowed(board: Board, gpus: int) -> list[str]:
    """Links of a healthy pair: all links of the GPU, or among four GPUs without switches a third of them.

    Bridges join two GPUs: with fewer links between them, a bridge is missing or has failed.
    """
    third = gpus == 4 and not board.bridged  # noqa: PLR2004
    return [f"NV{board.nvlinks}"] + [f"NV{board.nvlinks // 3}"] * third


def judge_wiring(topology: Topology, board: Board | None) -> WiringVerdict:
    """Compare the wiring with its board or, for an unknown board, with what its links imply."""
    mesh, unknown = _mesh(topology, board)
    links = _link_faults(topology, board) if board else []
    if board and _follows(topology, board, links):
        # The links that are down are named; that these GPUs' pairs have fewer is the same fault.
        mesh = []
    return WiringVerdict(
        (
            *_fabric_faults(topology.gpus),
            *_partition_faults(topology.gpus),
            *links,
            *mesh,
            *_p2p_faults(topology, board),
            *_pcie_faults(topology.gpus),
            *_error_faults(topology.gpus),
        ),
        unknown,
    )


def _follows(topology: Topology, board: Board, links: Sequence[WiringFault]) -> bool:
    """Every pair that differs has NVLink and a GPU whose links are down: the mesh tells no more than these."""
    down = {fault.where for fault in links}
    allowed = _allowed(board, len(topology.gpus))
    uneven = [pair for pair in topology.pairs if pair.known and pair.link not in allowed]
    return bool(down) and all(pair.nvlinks and {f"GPU {pair.a}", f"GPU {pair.b}"} & down for pair in uneven)


def _mesh(topology: Topology, board: Board | None) -> tuple[list[WiringFault], str | None]:
    """The fault in the wiring between the GPUs, or why it cannot be judged."""
    if not topology.pairs or topology.mig:
        return [], None
    pairs = [pair for pair in topology.pairs if pair.known]
    if not pairs:
        return [], "NVML does not tell how the GPUs of this node are connected"
    if board is None:
        return _mesh_of_unknown_board(topology, pairs)
    kinds = {pair.link for pair in pairs}
    allowed = _allowed(board, len(topology.gpus))
    if board.bridged:
        sound = all(pair.link in allowed for pair in pairs if pair.nvlinks)
        expected = f"{' or '.join(allowed)} where {board.name} is bridged"
        return [] if sound else [_uneven(topology, pairs, expected)], None
    if len(kinds) == 1 and kinds <= set(allowed):
        return [], None
    if _shows_no_nvlink(topology, pairs):
        return (
            [],
            f"NVML shows neither NVLinks nor a fabric on {board.name}, as in a virtual machine without them",
        )
    return [_uneven(topology, pairs, f"{' or '.join(allowed)} for all pairs on {board.name}")], None


def _shows_no_nvlink(topology: Topology, pairs: Sequence[GpuPair]) -> bool:
    return (
        topology.source == "nvml"
        and not any(pair.nvlinks for pair in pairs)
        and all(gpu.links_active is None and gpu.fabric_state in _NO_FABRIC for gpu in topology.gpus)
    )


def _mesh_of_unknown_board(
    topology: Topology, pairs: Sequence[GpuPair]
) -> tuple[list[WiringFault], str | None]:
    links: Counter[int] = Counter()
    for pair in pairs:
        links[pair.a] += pair.nvlinks
        links[pair.b] += pair.nvlinks
    most = max(links.values())
    if not most:
        return [], f"no pair of GPUs has NVLink, as on boards without it or with it down; {_NAME_IT}"
    if len({pair.link for pair in pairs}) == 1:
        return [], None
    if most > _MOST_LINKS:
        return [_uneven(topology, pairs, "the same NVLink count for all pairs")], None
    return [], f"pairs of GPUs differ, as they do without NVLink switches ({_counts(pairs)}); {_NAME_IT}"


def _uneven(topology: Topology, pairs: Sequence[GpuPair], expected: str) -> WiringFault:
    linked = {gpu for pair in pairs if pair.nvlinks for gpu in (pair.a, pair.b)}
    alone = [str(gpu.index) for gpu in topology.gpus if gpu.index not in linked]
    return WiringFault(
        "mesh",
        "node",
        f"no uniform NVLink mesh ({_counts(pairs)})"
        + (f", and none at all at GPU {', '.join(alone)}" if linked and alone else ""),
        expected,
        "the cause is wiring or fabric; no NCCL variable can change it"
        # NVML reports whether MIG is on; a pasted matrix does not.
        + (" (with MIG on, this is by design)" if topology.source == "text" else ""),
    )


def _counts(pairs: Sequence[GpuPair]) -> str:
    kinds = sorted({pair.link for pair in pairs})
    return ", ".join(f"{kind} × {sum(pair.link == kind for pair in pairs)}" for kind in kinds)


def fabric_not_started(gpus: Sequence[GpuWiring]) -> list[WiringFault]:
    """The fabric faults with which CUDA does not start. With any other it starts, and the node can be measured."""
    return _fabric_faults([gpu for gpu in gpus if gpu.fabric_state in {"not started", "in progress"}])


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
    # NVLinks of a split GPU are off by design. If no GPU has any, the mesh check reports one fault, not one per GPU.
    if topology.mig or all(gpu.links_active == 0 for gpu in topology.gpus):
        return []
    # A bridge is optional.
    allowed = {board.nvlinks, 0} if board.bridged else {board.nvlinks}
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
        if gpu.links_active is not None and gpu.links_active not in allowed
    ]


def _p2p_faults(topology: Topology, board: Board | None) -> list[WiringFault]:
    bad = [pair for pair in topology.pairs if pair.p2p not in {None, "ok"}]
    if not bad or topology.mig:
        return []
    first = bad[0]
    # Many boards have no peer access over PCIe, by design.
    needed = board is not None and not board.bridged
    return [
        WiringFault(
            "p2p",
            f"GPU {first.a} and GPU {first.b}" + (f" and {len(bad) - 1} more pairs" if len(bad) > 1 else ""),
            f"peer access {first.p2p}",
            "ok",
            "check the IOMMU and ACS settings, and the driver's registry keys",
            symptom=needed or any(pair.nvlinks for pair in bad),
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
