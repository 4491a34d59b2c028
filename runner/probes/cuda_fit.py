"""Whether torch, and the CUDA packages beside it, have code for the GPUs here.

A GPU runs machine code of its own architecture (sm_100), and that of an older one with the same major version. Of other
code it runs only PTX (compute_90), which the driver compiles at the first use. Code with the suffix a runs on exactly
one architecture, with f on its family. Without code for a GPU the first kernel fails: "no kernel image is available".
Packages beside torch are read with cuobjdump, where the CUDA toolkit is installed. One addition then runs on each GPU.

With --arch-list and --capability a pair from another node is judged, without a GPU; --cuda and --driver-cuda add the
versions that torch.version.cuda and nvidia-smi show there.

Output: gpus_without_code by package, kernel_launched by GPU, toolkit_is_driver_cuda; details.facts.fits has the code
that each GPU runs. Symptom: a package has no code for a GPU, the driver is too old, torch has no CUDA on a node with
GPUs, or a kernel fails. Not applicable: no GPU.

Example:
    python -m runner.probes.cuda_fit
    python -m runner.probes.cuda_fit --arch-list "sm_80 sm_90" --capability 10.0
"""

import argparse
import sys

from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import NODE_FAULTS


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--arch-list",
        metavar="LIST",
        help="judge this list instead: the output of torch.cuda.get_arch_list(), or a TORCH_CUDA_ARCH_LIST",
    )
    parser.add_argument("--capability", metavar="X.Y", help="with --arch-list: the GPU's compute capability")
    parser.add_argument("--cuda", metavar="X.Y", help="with --arch-list: the CUDA version of that torch")
    parser.add_argument(
        "--driver-cuda", metavar="X.Y", help="with --arch-list: the CUDA version in nvidia-smi"
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.cuda_fit import cuda_fit_findings

    return cuda_fit_findings(arguments)


PROBE = Probe(
    "cuda_fit",
    method_version=1,
    summary="Whether torch and its CUDA packages have code for the GPUs here",
    metrics=(
        Metric(
            "gpus_without_code",
            "1",
            "lower",
            "GPUs for which a package has neither machine code nor PTX that they can run.",
            kind="count",
            label="GPUs without code",
        ),
        Metric(
            "kernel_launched",
            "1",
            "higher",
            "1 if an addition of torch ran on the GPU, else 0.",
            kind="flag",
            label="Kernel launched",
        ),
        Metric(
            "toolkit_is_driver_cuda",
            "1",
            None,
            "1 if the CUDA version of torch is the one that the driver reports, and nvidia-smi shows, else 0.",
            kind="flag",
            label="Torch's CUDA is the driver's",
        ),
        NODE_FAULTS,
    ),
    labels=("package", "source", "gpu"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
