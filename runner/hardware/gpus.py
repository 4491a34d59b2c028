"""The GPUs of this host, read through NVML: those that are installed, and those that CUDA shows to this process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from runner.base.bounds import FACT_CHARACTERS, Count, Fact, Name, Reading
from runner.base.time_limit import answer_within
from runner.hardware import visible
from runner.hardware.nvml import ask_nvml, is_marked_stand_in, load_nvml, shut_down_nvml
from runner.hardware.visible import InstalledGpu, Instance

_DEADLINE_S = 20.0
# Without persistence mode, the driver starts each GPU anew for every program that opens it.
_START_S = 5.0
_DEV = Path("/dev")


class Gpu(BaseModel):
    """One GPU. Identifiers (UUID, serial number) are never stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    index: Count
    name: Fact
    memory_bytes: Count
    compute_capability: Name | None = None
    sm_clock_hz: Reading | None = None
    memory_clock_hz: Reading | None = None
    power_limit_w: Reading | None = None
    throttle_reasons: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    mig: bool = False
    busy: bool | None = None


@dataclass(frozen=True)
class Visible:
    """The GPUs that a CUDA program started from this process can use.

    Attributes:
        gpus: in CUDA's order, with their numbers among the installed ones; of a split GPU, its memory is that of the
            instance.
        hidden_by: why these are not all installed GPUs; None if they are.
        held: numbers of those that CUDA shows and that no further process can use (compute mode Prohibited, or
            Exclusive_Process and in use). They are not in `gpus`.
        exclusive: numbers of those that one process at a time can use.
    """

    gpus: tuple[Gpu, ...] = ()
    hidden_by: str | None = None
    held: tuple[int, ...] = ()
    exclusive: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sight:
    """What NVML shows.

    Attributes:
        error: why the GPUs could not be read, if the host shows signs of any.
        simulated: the library is a stub, or its GPUs have no device nodes.
    """

    gpus: tuple[Gpu, ...] = ()
    visible: Visible = Visible()
    driver: str | None = None
    error: str | None = None
    simulated: bool = False


def nvml_deadline(dev: Path = _DEV) -> float:
    """Seconds within which NVML has to answer: longer with more GPUs, which may all have to be started."""
    return _DEADLINE_S + _START_S * len(list(dev.glob("nvidia[0-9]*")))


def look_at_gpus() -> Sight:
    """Read the GPUs of this host. Does not raise on a faulty host."""
    try:
        return answer_within(nvml_deadline(), _read)
    except TimeoutError as error:
        return _unreadable(
            f"NVML: {error}; the driver may be hung, or starts every GPU anew (nvidia-smi -pm 1 keeps them on)"
        )
    except Exception as error:  # noqa: BLE001 - a faulty library must not end a look at the host
        return _unreadable(f"NVML: {type(error).__name__}: {error}")


def _unreadable(why: str | None) -> Sight:
    return Sight(error=why and why[:FACT_CHARACTERS], simulated=is_marked_stand_in())


def visible_count() -> int:
    """Number of GPUs that this process can use through CUDA; 0 if there are none or they cannot be read."""
    return len(look_at_gpus().visible.gpus)


def _read() -> Sight:
    nvml = load_nvml()
    if nvml is None:
        return Sight(error=why_unreadable("NVML Shared Library Not Found"))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _unreadable(why_unreadable(str(error)))
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        gpus = tuple(_read_gpu(nvml, index, handle) for index, handle in enumerate(handles))
        shown = _visible(nvml, handles, gpus)
    except nvml.NVMLError as error:
        return _unreadable(f"NVML: {error}")
    finally:
        shut_down_nvml(nvml)
    return Sight(gpus, shown, driver, simulated=is_stand_in(len(gpus)))


def why_unreadable(message: str) -> str | None:
    """The error if the host shows signs of NVIDIA GPUs; None on a host without GPUs."""
    return f"NVML: {message}" if _signs_of_gpus() else None


def _signs_of_gpus(pci: Path = Path("/sys/bus/pci/devices"), dev: Path = _DEV) -> bool:
    if any(dev.glob("nvidia[0-9]*")):
        return True
    for device in pci.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        # PCI vendor 10de is NVIDIA, base class 03 a display or 3D controller.
        if vendor.strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def is_stand_in(count: int) -> bool:
    """GPUs without device nodes are not real; a stub library has a marker symbol."""
    if count and not any(_DEV.glob("nvidia[0-9]*")) and not (_DEV / "dxg").exists():
        return True
    return is_marked_stand_in()


def _read_gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    capability = ask_nvml(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    sm = ask_nvml(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM)
    memory = ask_nvml(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM)
    limit = ask_nvml(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    mig = ask_nvml(nvml, "nvmlDeviceGetMigMode", handle)
    reasons = ask_nvml(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    processes = ask_nvml(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    return Gpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
        compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        sm_clock_hz=None if sm is None else sm * 1e6,
        memory_clock_hz=None if memory is None else memory * 1e6,
        power_limit_w=None if limit is None else limit / 1e3,
        throttle_reasons=() if reasons is None else throttle_reasons(reasons),
        mig=mig is not None and bool(mig[0]),
        busy=None if processes is None else bool(processes),
    )


def _visible(nvml: Any, handles: Sequence[Any], gpus: Sequence[Gpu]) -> Visible:
    value = os.environ.get(visible.NAME)
    identified = visible.names_identifiers(value)
    devices = [_device(nvml, handle, gpu, identified) for handle, gpu in zip(handles, gpus, strict=True)]
    found = visible.visible_devices(value, devices)
    numbers = list(dict.fromkeys(one.gpu for one in found))
    modes = {number: ask_nvml(nvml, "nvmlDeviceGetComputeMode", handles[number]) for number in numbers}
    alone = {number for number in numbers if modes[number] == nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS}
    # Clients of MPS share the one process that holds the GPU.
    holders = {number: _holders(nvml, handles[number]) for number in alone}
    exclusive = {number for number in alone if not any(_is_mps(nvml, pid) for pid in holders[number])}
    held = tuple(
        number
        for number in numbers
        if modes[number] == nvml.NVML_COMPUTEMODE_PROHIBITED or (number in exclusive and holders[number])
    )
    usable = tuple(
        gpus[one.gpu]
        if one.instance is None
        else gpus[one.gpu].model_copy(update={"memory_bytes": one.instance.memory_bytes})
        for one in found
        if one.gpu not in held
    )
    return Visible(usable, _hidden_by(value, devices, found, held), held, tuple(sorted(exclusive)))


def _hidden_by(
    value: str | None,
    devices: Sequence[InstalledGpu],
    found: Sequence[visible.VisibleDevice],
    held: Sequence[int],
) -> str | None:
    if len([one for one in found if one.instance is None]) == len(devices):
        return "compute mode" if held else None
    by_default = set(visible.visible_devices(None, devices))
    return "MIG" if value is None or set(found) == by_default else visible.NAME


def _device(nvml: Any, handle: Any, gpu: Gpu, identified: bool) -> InstalledGpu:
    def uuid(of: Any) -> str:
        return _text(ask_nvml(nvml, "nvmlDeviceGetUUID", of) or "") if identified else ""

    most = (ask_nvml(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0) if gpu.mig else 0
    places = [ask_nvml(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, place) for place in range(most)]
    parts = [part for part in places if part is not None]
    memories = [ask_nvml(nvml, "nvmlDeviceGetMemoryInfo", part) for part in parts]
    return InstalledGpu(
        uuid(handle),
        gpu.mig,
        tuple(
            Instance(
                0 if memory is None else int(memory.total),
                uuid(part),
                ask_nvml(nvml, "nvmlDeviceGetGpuInstanceId", part),
                ask_nvml(nvml, "nvmlDeviceGetComputeInstanceId", part),
            )
            for part, memory in zip(parts, memories, strict=True)
        ),
    )


def _holders(nvml: Any, handle: Any) -> list[int]:
    """Other processes with a context on this GPU."""
    processes = ask_nvml(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or ()
    return [process.pid for process in processes if process.pid != os.getpid()]


def _is_mps(nvml: Any, pid: int) -> bool:
    return "nvidia-cuda-mps" in _text(ask_nvml(nvml, "nvmlSystemGetProcessName", pid) or "")


# Bits of nvmlClocksEventReasons that mean throttling; idle and user-set clocks are not among them.
_HELD_BACK = {
    0x0000000000000004: "software power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000010: "sync boost",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "hardware power brake",
}


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Names of the throttle reasons in the bits of nvmlClocksEventReasons."""
    return tuple(name for bit, name in _HELD_BACK.items() if bits & bit)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
