"""Whether torch can use the GPUs that the driver reports: a probe must not measure the host instead of them."""

from runner.base.errors import RunbookError
from runner.hardware.gpus import Sight, look_at_gpus
from runner.hardware.topology import Topology
from runner.hardware.topology_nvml import read_topology
from runner.hardware.wiring import fabric_not_started
from runner.kit.probe import NotApplicableError


def wiring_with_fabric() -> Topology | None:
    """How the GPUs are wired; None on a host without GPUs. With one GPU, only its fabric state is known.

    Raises:
        NotApplicableError: CUDA does not start, because the fabric of a visible GPU is not up.
        RunbookError: they cannot be read.
    """
    return _wiring(look_at_gpus())


def _wiring(seen: Sight) -> Topology | None:
    topology = read_topology()
    if topology is None:
        return None
    if seen.error is not None:
        raise RunbookError(
            f"the GPUs of this host cannot be read ({seen.error}); check the driver with nvidia-smi"
        )
    shown = {gpu.index for gpu in seen.visible.gpus}
    for fault in fabric_not_started([gpu for gpu in topology.gpus if gpu.index in shown]):
        raise NotApplicableError(f"CUDA does not start until the fabric is up: {fault}")
    return topology


def usable_gpus() -> int:
    """GPUs that torch can use; 0 on a host without GPUs, or if CUDA_VISIBLE_DEVICES hides them.

    Raises:
        NotApplicableError: the fabric is not up, or the compute mode of a visible GPU excludes this process.
        RunbookError: the driver reports GPUs, but torch cannot use any.
    """
    seen = look_at_gpus()
    _wiring(seen)
    visible = seen.visible
    if visible.held:
        raise NotApplicableError(
            f"GPU {visible.held[0]} is in a compute mode that excludes this process: Prohibited, or Exclusive_Process"
            " and in use; list other GPUs in CUDA_VISIBLE_DEVICES"
        )
    import torch

    usable = torch.cuda.device_count()
    if visible.gpus and not usable:
        gpus, kind = (seen.gpus, "") if visible.hidden_by is None else (visible.gpus, "visible ")
        count = f"{len(gpus)} {kind}GPU{'s' * (len(gpus) != 1)}"
        raise RunbookError(
            f"NVML reports {count}, but this torch cannot use any; run python -m torch.utils.collect_env"
        )
    return usable


def require_sharing(option: str) -> None:
    """Refuse to start two processes on a GPU that accepts only one.

    Args:
        option: the caller's option that needs both, for the message.

    Raises:
        NotApplicableError: a visible GPU is in compute mode Exclusive_Process.
    """
    exclusive = look_at_gpus().visible.exclusive
    if exclusive:
        raise NotApplicableError(
            f"{option} runs two processes on each GPU, and GPU {exclusive[0]} accepts only one (compute mode"
            f" Exclusive_Process); omit it, or run nvidia-smi -i {exclusive[0]} -c DEFAULT as root"
        )
