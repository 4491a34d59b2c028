"""Whether torch can use the GPUs that the driver reports: a probe must not measure the host instead of them."""

import os

from runner.errors import RunbookError
from runner.hardware.machine import gpu_count
from runner.hardware.topology import Topology, judge
from runner.hardware.topology_nvml import read_topology
from runner.probes.contract import NotApplicableError


def wiring_with_fabric() -> Topology | None:
    """How the GPUs are wired; None on a host without GPUs.

    Raises:
        NotApplicableError: the fabric is not up, and CUDA does not start without it.
        RunbookError: they cannot be read.
    """
    topology = read_topology()
    for fault in judge(topology, None).faults if topology else ():
        if fault.kind == "fabric":
            raise NotApplicableError(f"CUDA does not start until the fabric is up: {fault}")
    return topology


def usable_gpus() -> int:
    """GPUs that torch can use; 0 on a host without GPUs, or if CUDA_VISIBLE_DEVICES hides them.

    Raises:
        NotApplicableError: the fabric is not up.
        RunbookError: the driver reports GPUs, but torch cannot use any.
    """
    wiring_with_fabric()
    import torch

    usable, installed = torch.cuda.device_count(), gpu_count()
    if installed and not usable and "CUDA_VISIBLE_DEVICES" not in os.environ:
        raise RunbookError(
            f"NVML reports {installed} GPUs, but this torch cannot use any; run python -m torch.utils.collect_env"
        )
    return usable
