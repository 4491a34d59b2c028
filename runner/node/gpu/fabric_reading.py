"""Reads each GPU's registration with the NVLink fabric, and what has to run on the host for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runner.base.plain import one_line
from runner.hardware.fabric_health import FabricComplaint, fabric_complaints
from runner.hardware.topology import FABRIC_STATES
from runner.node.gpu.asking import NvmlAsker, OpenGpu
from runner.node.gpu.driver_host import DriverHost, read_driver_host
from runner.node.host.tree import HostTree

_CALL = "nvmlDeviceGetGpuFabricInfoV"
_PASSTHROUGH, _VGPU = 1, 2


@dataclass(frozen=True, kw_only=True)
class GpuFabric:
    """One GPU's side of the fabric.

    Attributes:
        state: of `hardware.topology.FABRIC_STATES`; None if it cannot be read.
        error: the error with which the registration ended; None without one.
        clique: the partition that it belongs to; None before a registration.
        virtual: this is a virtual machine, with the whole GPU or a part of it.
        persistent: whether persistence mode is on; None if unknown.
        unread: why the state cannot be read.
    """

    index: int
    name: str
    state: str | None
    error: str | None = None
    clique: int | None = None
    complaints: tuple[FabricComplaint, ...] = ()
    virtual: bool = False
    persistent: bool | None = None
    unread: str | None = None


@dataclass(frozen=True)
class FabricFacts:
    """All of them, and what runs on the host."""

    gpus: tuple[GpuFabric, ...]
    host: DriverHost


def read_fabric(asker: NvmlAsker, gpus: Sequence[OpenGpu], tree: HostTree | None = None) -> FabricFacts:
    """The facts of all GPUs that could be opened; `tree` is a captured host for tests, by default this one."""
    return FabricFacts(tuple(_gpu(asker, gpu) for gpu in gpus), read_driver_host(tree or HostTree()))


def _gpu(asker: NvmlAsker, gpu: OpenGpu) -> GpuFabric:
    info = _information(asker, gpu)
    mode = asker.ask("nvmlDeviceGetVirtualizationMode", gpu.handle, of=gpu.where)
    persistence = asker.ask("nvmlDeviceGetPersistenceMode", gpu.handle, of=gpu.where)
    base = GpuFabric(
        index=gpu.index,
        name=gpu.name,
        state=None,
        virtual=mode in {_PASSTHROUGH, _VGPU},
        persistent=None if persistence is None else bool(persistence),
    )
    if info is None:
        refusal = asker.refusal(_CALL, gpu.where)
        unread = None if refusal is None or refusal.kind == "unsupported" else str(refusal)
        return replace(base, state="not supported" if unread is None else None, unread=unread)
    state = FABRIC_STATES.get(info.state, f"unknown ({info.state})")
    # The rest is valid only after an attempt to register.
    if state in {"not supported", "not started"}:
        return replace(base, state=state)
    return replace(
        base,
        state=state,
        error=one_line(str(asker.nvml.NVMLError(info.status))) if info.status else None,
        clique=int(info.cliqueId),
        complaints=fabric_complaints(info.healthMask, getattr(info, "healthSummary", 0)),
    )


def _information(asker: NvmlAsker, gpu: OpenGpu) -> Any:
    # Drivers before 570 know version 2, which lacks the summary.
    for structure in ("c_nvmlGpuFabricInfo_v3_t", "c_nvmlGpuFabricInfoV_t"):
        made = getattr(asker.nvml, structure, None)
        if made is None:
            continue
        info = made()
        if asker.ask(_CALL, gpu.handle, asker.nvml.byref(info), of=gpu.where) is not None:
            return info
        refusal = asker.refusal(_CALL, gpu.where)
        if refusal is None or refusal.kind != "unsupported":
            return None
    return None
