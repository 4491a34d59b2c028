"""The facts about this host. Only this module inspects the host; all other code receives a `Machine`."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import BaseModel, ConfigDict, Field

from runner.bounds import FACT_CHARACTERS, Count, Fact, Name, Reading
from runner.hardware.boards import BOARDS, board_of
from runner.hardware.processor import Processor, read_processor
from runner.time_limit import answer_within

NVML_DEADLINE_S = 20.0


class Gpu(BaseModel):
    """One installed GPU. Identifiers (UUID, serial number) are never read."""

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


class Machine(BaseModel):
    """The facts about a host that make a number comparable. `None` means unknown.

    Attributes:
        machine_class: installed hardware, such as `8xB200-180GB` or `cpu-amd-epyc-x86_64-v4-2c`.
        cpu_level, cpu_matrix: as in `Processor`; a record older than schema 3 has neither.
        load: one-minute load average when the run began.
        gpu_error: why the GPUs could not be read, if the host shows signs of any.
        simulated: NVML is a stub library, or its GPUs have no device nodes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    machine_class: Name
    gpus: Annotated[tuple[Gpu, ...], Field(max_length=1_000)]
    gpu_error: Fact | None
    driver: Fact | None
    cpu: Fact | None
    cores: Count
    arch: Name
    memory_bytes: Count
    os: Fact
    kernel: Fact
    python: Fact
    torch: Fact | None
    cuda: Fact | None
    nccl: Fact | None
    load: Reading | None
    simulated: bool
    cpu_level: Name | None = None
    cpu_matrix: Name | None = None

    @property
    def processor(self) -> Processor:
        """The processor that names the class of a host without GPUs."""
        return Processor(self.cpu, self.arch, self.cores, self.cpu_level, self.cpu_matrix)


class _Nvml(BaseModel):
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    error: str | None = None
    simulated: bool = False


def machine_class(gpus: Sequence[Gpu], gpu_error: str | None, processor: Processor) -> str:
    """Name the class of installed hardware: `8xB200-180GB`, `1xH100-80GB`, `cpu-amd-epyc-x86_64-v4-2c`.

    A host with GPUs that cannot be read is `unreadable-gpu-<arch>-<cores>c`, never a CPU class.
    """
    if gpu_error is not None:
        return f"unreadable-gpu-{processor.arch}-{processor.cores}c"
    if not gpus:
        return processor.machine_class
    kinds = Counter(_gpu_kind(gpu) for gpu in gpus)
    return "+".join(f"{count}x{kind}" for kind, count in sorted(kinds.items()))


def joint_class(single: str, nodes: int) -> str:
    """The class of several such nodes working as one: `4-nodes-of-8xB200-180GB`. Never a single node's class."""
    return f"{nodes}-nodes-of-{single}"


def _gpu_kind(gpu: Gpu) -> str:
    board = board_of(gpu.name)
    if board is not None:
        name = board.kind
    else:
        bare = re.sub(r"^NVIDIA\s+|[^A-Za-z0-9]+", "-", gpu.name).strip("-")
        name = f"{bare}-{round(gpu.memory_bytes / 2**30)}GB"
        # The limits of a known board do not apply to another board, even one with a similar name.
        name = f"other-{name}" if any(name == known.kind for known in BOARDS) else name
    return f"{name}-mig" if gpu.mig else name


def look() -> Machine:
    """Inspect this host. Does not raise on a faulty host; does not import torch."""
    nvml = _look_at_gpus()
    processor = read_processor(_cpuinfo(), platform.machine(), os.cpu_count() or 1)
    torch, cuda = _torch_versions()
    return Machine(
        machine_class=machine_class(nvml.gpus, nvml.error, processor),
        gpus=nvml.gpus,
        gpu_error=nvml.error,
        driver=nvml.driver,
        cpu=processor.name and processor.name[:FACT_CHARACTERS],
        cpu_level=processor.level,
        cpu_matrix=processor.matrix,
        cores=processor.cores,
        arch=processor.arch,
        memory_bytes=psutil.virtual_memory().total,
        os=_os_name(),
        kernel=platform.release(),
        python=platform.python_version(),
        torch=torch,
        cuda=cuda,
        nccl=_nccl_version(),
        load=os.getloadavg()[0],
        simulated=nvml.simulated,
    )


def gpu_count() -> int:
    """Number of GPUs that NVML reports; 0 if there are none or they cannot be read."""
    return len(_look_at_gpus().gpus)


def _look_at_gpus() -> _Nvml:
    try:
        return answer_within(NVML_DEADLINE_S, _read_nvml)
    except TimeoutError as error:
        return _Nvml(error=f"NVML: {error}; the driver may be hung")


def _read_nvml() -> _Nvml:
    import pynvml  # noqa: PLC0415 - not needed on a host without GPUs

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _Nvml(error=_why_unreadable(str(error)))
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        count = pynvml.nvmlDeviceGetCount()
        gpus = tuple(_read_gpu(pynvml, index) for index in range(count))
    except pynvml.NVMLError as error:
        return _Nvml(error=f"NVML: {error}"[:FACT_CHARACTERS])
    finally:
        pynvml.nvmlShutdown()
    return _Nvml(gpus=gpus, driver=driver, simulated=_is_stand_in(count))


def _why_unreadable(message: str) -> str | None:
    """The error if the host shows signs of NVIDIA GPUs; None on a host without GPUs."""
    return f"NVML: {message}" if _signs_of_gpus() else None


def _signs_of_gpus(pci: Path = Path("/sys/bus/pci/devices"), dev: Path = Path("/dev")) -> bool:
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


def _is_stand_in(count: int) -> bool:
    """GPUs without device nodes are not real; a stub library has a marker symbol."""
    if count and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return True
    try:
        return hasattr(ctypes.CDLL("libnvidia-ml.so.1"), "runbook_stand_in_nvml")
    except OSError:
        return False


def _read_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str, *arguments: object) -> Any:
        """One reading; None if this board or driver does not support it."""
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:
            return None

    capability = ask("nvmlDeviceGetCudaComputeCapability")
    sm = ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
    memory = ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)
    limit = ask("nvmlDeviceGetEnforcedPowerLimit")
    mig = ask("nvmlDeviceGetMigMode")
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
    processes = ask("nvmlDeviceGetComputeRunningProcesses")
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


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())[:FACT_CHARACTERS]
    except OSError:
        return platform.system()


def _torch_versions() -> tuple[str | None, str | None]:
    """Versions of torch and of its CUDA, read from files, because importing torch takes seconds."""
    try:
        distribution = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None, None
    try:
        text = Path(str(distribution.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except OSError:
        return distribution.version, None
    cuda = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return version[1] if version else distribution.version, cuda[1] if cuda else None


def _nccl_version() -> str | None:
    # By name, because listing all installed distributions takes a tenth of a second.
    for cuda in ("cu13", "cu12"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(f"nvidia-nccl-{cuda}")
    return None
