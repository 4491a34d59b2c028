"""What `topology` reports: the wiring of every pair and GPU, from NVML or a pasted text, and its faults."""

import argparse
from dataclasses import asdict

from runner.base.words import and_more
from runner.hardware.boards import Board, board_named, board_of
from runner.hardware.machine import look
from runner.hardware.topology import GpuPair, GpuWiring, Topology
from runner.hardware.topology_nvml import read_topology
from runner.hardware.topology_text import parse_topology
from runner.hardware.wiring import WiringFault, WiringVerdict, expected_link, judge_wiring
from runner.kit.pasted_input import read_pasted
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.node.findings import Action
from runner.record.model import Measurement


def wiring_findings(arguments: argparse.Namespace) -> Findings:
    """The wiring of this host's GPUs, or of a pasted text, compared with that of the board.

    Raises:
        InputError: the text cannot be read, or is no matrix.
        NotApplicableError: there is no pair of GPUs.
    """
    topology, board = _from_text(arguments) if arguments.source else _from_nvml(arguments)
    verdict, expected = judge_wiring(topology, board), expected_link(topology, board)
    for fault in verdict.faults:
        say(f"{'SYMPTOM' if fault.symptom else 'note'}: {fault}")
    if not verdict.faults and verdict.unknown is None:
        say(f"wiring as expected: {len(topology.gpus)} GPUs, {_pairs(topology)}")
    return Findings(
        measurements=_measurements(topology),
        status="symptom" if verdict.symptom else "ok" if verdict.healthy else "not_applicable",
        reason=_reason(verdict),
        requested={"source": "text" if arguments.source else "nvml", "board": arguments.board},
        effective={"source": topology.source, "board": board.name if board else None},
        details={
            "pairs": {f"{pair.a}-{pair.b}": _as_dict(pair, expected) for pair in topology.pairs},
            "gpus": [_shown(gpu) for gpu in topology.gpus],
            "faults": [str(fault) for fault in verdict.faults],
            "findings": [_finding(fault) for fault in verdict.faults],
            "mig": topology.mig,
        },
    )


def _pairs(topology: Topology) -> str:
    kinds = sorted({pair.link for pair in topology.pairs})
    return f"all pairs {kinds[0]}" if len(kinds) == 1 else f"pairs {', '.join(kinds)}"


def _as_dict(pair: GpuPair, expected: str | None) -> dict[str, object]:
    """A pair's verdict; `as_expected` is None without an expectation or a reading."""
    good = None if expected is None or not pair.known else pair.link == expected and pair.p2p in {None, "ok"}
    return {"link": pair.link, "expected": expected, "p2p": pair.p2p, "as_expected": good}


def _shown(gpu: GpuWiring) -> dict[str, object]:
    """The known facts of one GPU; unknown ones are omitted."""
    known = {name: value for name, value in asdict(gpu).items() if value not in {None, ()}}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


def _finding(fault: WiringFault) -> dict[str, object]:
    """The fault with its action: wiring and fabric need a repair, and a note needs nothing."""
    return {
        "kind": f"wiring-{fault.kind}",
        "action": (Action.DRAIN if fault.symptom else Action.KEEP).value,
        "where": fault.where,
        "found": f"{fault.found}, expected {fault.expected}",
        "next": fault.next,
    }


def _reason(verdict: WiringVerdict) -> str | None:
    symptoms = [fault for fault in verdict.faults if fault.symptom]
    if not symptoms:
        return verdict.unknown
    return f"{symptoms[0]}{and_more(len(symptoms))}"


def _from_text(arguments: argparse.Namespace) -> tuple[Topology, Board | None]:
    topology = parse_topology(read_pasted(arguments.source, "the matrix"))
    if len(topology.gpus) < 2:  # noqa: PLR2004 - a pair
        raise NotApplicableError("the text shows one GPU; wiring between GPUs needs two")
    return topology, board_named(arguments.board) if arguments.board else None


def _from_nvml(arguments: argparse.Namespace) -> tuple[Topology, Board | None]:
    topology = read_topology()
    if topology is None:
        raise NotApplicableError(
            "this host has no NVIDIA driver; use --from FILE with a node's nvidia-smi topo -m output"
        )
    if len(topology.gpus) < 2:  # noqa: PLR2004 - a pair
        count = "1 GPU" if topology.gpus else "no GPU"
        raise NotApplicableError(f"this host has {count}; wiring between GPUs needs two")
    if arguments.board:
        return topology, board_named(arguments.board)
    boards = {board_of(gpu.name) for gpu in look().gpus}
    return topology, boards.pop() if len(boards) == 1 else None


def _measurements(topology: Topology) -> list[Measurement]:
    found = [single("nvlinks_per_pair", min((pair.nvlinks for pair in topology.pairs), default=0))]
    for gpu in topology.gpus:
        of_gpu = {
            "nvlinks_active": gpu.links_active,
            "nvlink_errors": gpu.link_errors,
            "pcie_width": gpu.pcie_width,
            "pcie_generation": gpu.pcie_generation,
        }
        found += [single(name, value, gpu=gpu.index) for name, value in of_gpu.items() if value is not None]
    return found
