"""Reads versions, modes and access of this node's GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass

from runner.base.plain import one_line
from runner.hardware.nvml import hung_calls
from runner.node.gpu.asking import NvmlAsker, OpenGpu, Refusal, unopened
from runner.node.gpu.driver_access import DriverAccess, read_driver_access

_VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vGPU", 3: "host of vGPU", 4: "host of vSGA"}
_COMPUTE_MODES = {0: "Default", 1: "Exclusive_Thread", 2: "Prohibited", 3: "Exclusive_Process"}


@dataclass(frozen=True, kw_only=True)
class GpuSoftware:
    """Versions and modes of one GPU; None: this board or driver does not tell."""

    index: int
    name: str
    bus_id: str | None
    vbios: str | None = None
    gsp: str | None = None
    inforom: str | None = None
    persistent: bool | None = None
    mig: bool = False
    compute_mode: str | None = None
    virtualization: str | None = None


@dataclass(frozen=True, kw_only=True)
class SoftwareFacts:
    """The software of this node's GPUs.

    Attributes:
        gpus: those that could be opened.
        unopened: why the others could not.
        hung: names of the calls that did not return, to this process or to the one that started it.
        stuck: what the first of them was asked about, `GPU 3`; empty if that is not known.
        driver: the driver's version, by NVML.
        cuda: the newest CUDA version that the driver supports, such as 13000 for 13.0.
        access: how this process reaches the driver.
    """

    gpus: tuple[GpuSoftware, ...]
    unopened: tuple[Refusal, ...]
    hung: tuple[str, ...]
    stuck: str = ""
    driver: str | None
    cuda: int | None
    access: DriverAccess


def read_software(
    asker: NvmlAsker, gpus: Sequence[OpenGpu], access: DriverAccess | None = None
) -> SoftwareFacts:
    """The facts of all GPUs; `access` is that of another host, for tests, and by default read here."""
    driver = _text(asker.ask("nvmlSystemGetDriverVersion"))
    cuda = asker.ask("nvmlSystemGetCudaDriverVersion_v2")
    found = tuple(_gpu(asker, gpu) for gpu in gpus)
    return SoftwareFacts(
        gpus=found,
        unopened=unopened(asker.refusals),
        hung=hung_calls(),
        # Calls that hung before are refused in the same way for every GPU, so only the first refusal tells.
        stuck=next((one.of for one in asker.refusals if one.kind == "hung" and "no answer" in one.text), ""),
        driver=driver,
        cuda=cuda,
        access=access or read_driver_access(),
    )


def _gpu(asker: NvmlAsker, gpu: OpenGpu) -> GpuSoftware:
    def ask(call: str) -> object:
        answer: object = asker.ask(call, gpu.handle, of=gpu.where)
        return answer

    persistent, mode = ask("nvmlDeviceGetPersistenceMode"), ask("nvmlDeviceGetComputeMode")
    virtual = ask("nvmlDeviceGetVirtualizationMode")
    return GpuSoftware(
        index=gpu.index,
        name=gpu.name,
        bus_id=gpu.bus_id,
        vbios=_text(ask("nvmlDeviceGetVbiosVersion")),
        gsp=_text(ask("nvmlDeviceGetGspFirmwareVersion")),
        inforom=_text(ask("nvmlDeviceGetInforomImageVersion")),
        persistent=None if persistent is None else bool(persistent),
        mig=gpu.mig,
        compute_mode=_COMPUTE_MODES.get(mode) if isinstance(mode, int) else None,
        virtualization=_VIRTUALIZATION.get(virtual) if isinstance(virtual, int) else None,
    )


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return one_line(value) or None if isinstance(value, str) else None
