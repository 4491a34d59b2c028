"""Whether the GPUs that the driver shows can be used: a probe must not measure the host in their place."""

import os

from runner.errors import RunbookError
from runner.hardware.machine import gpu_count
from runner.hardware.topology import Topology, judge
from runner.hardware.topology_nvml import read_topology
from runner.probes.contract import NotApplicableError


def wiring_with_fabric() -> Topology | None:
    """How the GPUs are wired; None on a host without any.

    Raises:
        NotApplicableError: the fabric between them is not up, and CUDA does not start without it.
        RunbookError: they cannot be read.
    """
    topology = read_topology()
    for fault in judge(topology, None).faults if topology else ():
        if fault.kind == "fabric":
            raise NotApplicableError(f"CUDA does not start before the fabric is up: {fault}")
    return topology


def usable_gpus() -> int:
    """GPUs that torch can use; 0 on a host without any, or where CUDA_VISIBLE_DEVICES hides them.

    Raises:
        NotApplicableError: the fabric between them is not up.
        RunbookError: the driver shows GPUs and torch can use none.
    """
    wiring_with_fabric()
    import torch

    usable, installed = torch.cuda.device_count(), gpu_count()
    if installed and not usable and "CUDA_VISIBLE_DEVICES" not in os.environ:
        raise RunbookError(
            f"NVML shows {installed} GPUs and this torch can use none: python -m torch.utils.collect_env says why"
        )
    return usable
