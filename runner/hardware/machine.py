"""The facts about this host. Only this module inspects the host; all other code receives a `Machine`."""

import contextlib
import importlib.metadata
import os
import platform
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from runner.base.bounds import FACT_CHARACTERS, Count, Fact, Name, Reading
from runner.hardware.boards import BOARDS, board_of
from runner.hardware.gpus import Gpu, Sight, Visible, look_at_gpus
from runner.hardware.processor import Processor, read_processor


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


def look_class() -> str:
    """The machine class of this host, without the other facts about it."""
    seen = look_at_gpus()
    return machine_class(seen.gpus, seen.error, _processor())


def _processor() -> Processor:
    return read_processor(_cpuinfo(), platform.machine(), os.cpu_count() or 1)


def look(seen: Sight | None = None) -> Machine:
    """Inspect this host. Does not raise on a faulty host; does not import torch.

    Args:
        seen: what NVML shows, if that is known; it is then not asked.
    """
    return look_both(seen)[0]


def look_both(seen: Sight | None = None) -> tuple[Machine, Visible]:
    """This host, and the GPUs of it that CUDA programs started from this process can use. Reads NVML at most once."""
    seen = seen or look_at_gpus()
    processor = _processor()
    torch, cuda = installed_torch()
    machine = Machine(
        machine_class=machine_class(seen.gpus, seen.error, processor),
        gpus=seen.gpus,
        gpu_error=seen.error,
        driver=seen.driver,
        cpu=processor.name and processor.name[:FACT_CHARACTERS],
        cpu_level=processor.level,
        cpu_matrix=processor.matrix,
        cores=processor.cores,
        arch=processor.arch,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        os=_os_name(),
        kernel=platform.release(),
        python=platform.python_version(),
        torch=torch,
        cuda=cuda,
        nccl=installed_nccl(),
        load=os.getloadavg()[0],
        simulated=seen.simulated,
    )
    return machine, seen.visible


def look_visible() -> Machine:
    """This host as CUDA shows it to this process: `gpus` are those that it can use, in CUDA's order.

    The machine class is still that of the installed hardware.
    """
    machine, visible = look_both()
    return machine.model_copy(update={"gpus": visible.gpus})


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


def installed_torch() -> tuple[str | None, str | None]:
    """Versions of torch and of its CUDA in this Python, read from files, because importing torch takes seconds."""
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


def installed_nccl() -> str | None:
    """Version of the NCCL package of this Python; None if it has none: NCCL may still be in the system, or in torch."""
    # By name, because listing all installed distributions takes a tenth of a second.
    for cuda in ("cu13", "cu12"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(f"nvidia-nccl-{cuda}")
    return None
