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

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import NVLINKS_ACTIVE


def _parser() -> argparse.ArgumentParser:
    from runner.hardware.boards import BOARDS

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
    from runner.kit.apart import answer_apart
    from runner.kit.wiring_findings import wiring_findings

    if arguments.source:
        return wiring_findings(arguments)
    return answer_apart(lambda: wiring_findings(arguments))


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
        NVLINKS_ACTIVE,
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
