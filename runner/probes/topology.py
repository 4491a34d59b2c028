"""How the GPUs of this node are wired, and whether that matches their board.

Physics. On an HGX node, all NVLinks of a GPU go to the switches, so all GPU pairs show the same `NV<n>`, where n is the
number of links of one GPU (18 on H100, H200 and B200). Switches carry traffic only when the fabric state is
`completed`. A pair with PIX, PXB, PHB, NODE or SYS uses PCIe. The driver reports the wiring; no NCCL variable changes
it.

    python -m runner.probes.topology
    python -m runner.probes.topology --from pasted.txt --board B200
    nvidia-smi topo -m | python -m runner.probes.topology --from -

The text does not name the board. Without `--board`, a uniform NVLink mesh is healthy, an uneven one whose links end at
switches is the symptom, and other wirings cannot be judged: they are healthy on boards without NVLink, with bridges, or
with links from GPU to GPU.
Exit status: 0 as expected, 1 wiring fault, 2 bad input, 80 not applicable: no pair of GPUs, or a wiring that cannot be
judged.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed
from runner.hardware.boards import BOARDS, Board, board_named, board_of
from runner.hardware.machine import look
from runner.hardware.topology import GpuPair, GpuWiring, Topology
from runner.hardware.topology_nvml import read_topology
from runner.hardware.topology_text import parse_topology
from runner.hardware.wiring import WiringVerdict, expected_link, judge_wiring
from runner.kit.probe import Findings, NotApplicableError, Probe, base_parser, say, single
from runner.record.model import Measurement
from runner.vocabulary.model import Metric

LARGEST_TEXT = 1 << 20


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="read nvidia-smi topo -m output from FILE; - is standard input",
    )
    parser.add_argument(
        "--board",
        choices=[board.name for board in BOARDS],
        help="board to compare with (default: as reported by NVML)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
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


def _reason(verdict: WiringVerdict) -> str | None:
    symptoms = [fault for fault in verdict.faults if fault.symptom]
    if not symptoms:
        return verdict.unknown
    more = f" (and {len(symptoms) - 1} more)" if len(symptoms) > 1 else ""
    return f"{symptoms[0]}{more}"


def _from_text(arguments: argparse.Namespace) -> tuple[Topology, Board | None]:
    topology = parse_topology(_read(arguments.source))
    if len(topology.gpus) < 2:  # noqa: PLR2004 - a pair
        raise NotApplicableError("the text shows one GPU; wiring between GPUs needs two")
    return topology, board_named(arguments.board) if arguments.board else None


def _read(source: str) -> str:
    try:
        if source == "-":
            data = sys.stdin.buffer.read(LARGEST_TEXT + 1)
            if len(data) > LARGEST_TEXT:
                raise InputError(
                    f"standard input has more than {LARGEST_TEXT >> 20} MiB; give the matrix alone"
                )
        else:
            # The path may be a pipe, as in --from <(nvidia-smi topo -m).
            data = read_placed(Path(source), LARGEST_TEXT, pipes=True)
    except (OSError, PlacedFileError) as error:
        why = error.why if isinstance(error, PlacedFileError) else error.strerror
        raise InputError(f"cannot read {source}: {why}") from error
    return data.decode("utf-8", "replace")


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


PROBE = Probe(
    "topology",
    method_version=2,
    summary="How the GPUs are wired, compared with what their board should have",
    metrics=(
        Metric(
            "nvlinks_per_pair",
            "1",
            "higher",
            "NVLinks between the two GPUs of the worst-connected pair.",
            kind="count",
            label="NVLinks of the worst pair",
            ceiling="link_count",
        ),
        Metric(
            "nvlinks_active",
            "1",
            "higher",
            "NVLinks of one GPU that are up, as counted by NVML.",
            kind="count",
            label="Active NVLinks of a GPU",
            ceiling="link_count",
        ),
        Metric(
            "nvlink_errors",
            "1",
            "lower",
            "NVLink data-link errors (replay, recovery, CRC) of one GPU since the driver was loaded.",
            kind="count",
            label="NVLink errors of a GPU",
        ),
        Metric(
            "pcie_width",
            "1",
            "higher",
            "Current number of lanes of one GPU's PCIe link.",
            kind="count",
            label="PCIe link width",
        ),
        Metric(
            "pcie_generation",
            "1",
            None,
            "Current generation of one GPU's PCIe link; an idle link drops to a lower one to save power.",
            kind="count",
            label="PCIe link generation",
        ),
    ),
    labels=("gpu",),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
