"""What the GPUs do that the processes of this host compute on, read through NVML."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.bounds import FACT_CHARACTERS
from runner.base.time_limit import answer_within
from runner.base.words import counted
from runner.hang.model import GpuLoad, Unseen
from runner.hardware.gpus import why_unreadable
from runner.hardware.nvml import ask_nvml, load_nvml, shut_down_nvml, utilisation_of

NO_GPU = "this host has no GPU"
_SOURCE = "GPU"
_PROC = Path("/proc")
# The inode of the first pid namespace (PROC_PID_INIT_INO in Linux's include/linux/proc_ns.h).
_FIRST_NAMESPACE = "pid:[4026531836]"


@dataclass(frozen=True)
class _Context:
    """A process that computes on a GPU, with the bytes that it holds there."""

    pid: int
    held: int
    load: GpuLoad


def gpu_loads(seconds: float, proc: Path = _PROC) -> tuple[Mapping[int, GpuLoad], tuple[Unseen, ...]]:
    """The load of the GPU that each process computes on, by pid, and what could not be read.

    Of a process with contexts on several GPUs, the GPU on which it holds most memory counts: a context alone takes a
    few hundred MB. Does not raise on a faulty host. `NO_GPU` is the only reason on a host without GPUs.

    Args:
        seconds: time limit. Without persistence mode the driver starts each GPU anew, about 5 s each.
        proc: where /proc is mounted.
    """
    try:
        contexts, problems = answer_within(seconds, _read)
    except TimeoutError as error:
        return {}, (_unseen(f"NVML: {error}; the driver may be hung; check dmesg for Xid messages"),)
    except Exception as error:  # noqa: BLE001 - a faulty library must not end the look at a job
        return {}, (_unseen(f"NVML: {type(error).__name__}: {error}"),)
    loads: dict[int, GpuLoad] = {}
    for one in sorted(contexts, key=lambda one: one.held):
        if _is_here(one.pid, proc):
            loads[one.pid] = one.load
    problems += _unmatched(
        len({one.pid for one in contexts} - loads.keys()), bool(contexts or problems), proc
    )
    return loads, tuple(map(_unseen, problems))


def _unseen(reason: str) -> Unseen:
    return Unseen(source=_SOURCE, reason=reason[:FACT_CHARACTERS])


def _unmatched(strangers: int, answered: bool, proc: Path) -> list[str]:
    """What NVML does not say in a container, whose processes have other pids than on the node."""
    first = _in_first_namespace(proc)
    if strangers and first:
        return [
            f"NVML lists {counted(strangers, 'process', 'processes')} that this node does not have (any more)"
        ]
    if strangers:
        listed = counted(strangers, "process", "processes")
        return [f"NVML lists {listed} by pids of the node, not of this container; look from the node itself"]
    if not answered and not first:
        return ["NVML lists no process, as in some containers; look from the node itself"]
    return []


def _read() -> tuple[list[_Context], list[str]]:
    """The contexts on all GPUs, and why some or all are not to be seen."""
    nvml = load_nvml()
    if nvml is None:
        return [], [why_unreadable("NVML Shared Library Not Found") or NO_GPU]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [], [why_unreadable(str(error)) or NO_GPU]
    contexts: list[_Context] = []
    problems: list[str] = []
    try:
        count = nvml.nvmlDeviceGetCount()
        if not count:
            problems.append(why_unreadable("no GPU found") or NO_GPU)
        for index in range(count):
            # One lost GPU does not hide what the others do.
            try:
                contexts += _contexts(nvml, index)
            except nvml.NVMLError as error:
                problems.append(f"NVML, GPU {index}: {error}; check dmesg for Xid messages")
    except nvml.NVMLError as error:
        problems.append(f"NVML: {error}; check dmesg for Xid messages")
    finally:
        shut_down_nvml(nvml)
    return contexts, problems


def _contexts(nvml: Any, index: int) -> list[_Context]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    # Not `ask_nvml`: a list that cannot be read must not become an empty one.
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    load = _load(nvml, index, handle)
    return [_Context(one.pid, one.usedGpuMemory or 0, load) for one in processes if one.pid > 0]


def _load(nvml: Any, index: int, handle: Any) -> GpuLoad:
    rates = ask_nvml(nvml, "nvmlDeviceGetUtilizationRates", handle)
    power = ask_nvml(nvml, "nvmlDeviceGetPowerUsage", handle)
    limit = ask_nvml(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    return GpuLoad(
        index=index, utilisation=utilisation_of(rates), power_w=_watts(power), limit_w=_watts(limit)
    )


def _watts(milliwatts: int | None) -> float | None:
    # 2³² - 1 stands for unknown.
    return None if milliwatts is None or not 0 < milliwatts < 2**32 - 1 else milliwatts / 1e3


def _in_first_namespace(proc: Path) -> bool:
    try:
        return str((proc / "self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return False


def _is_here(pid: int, proc: Path) -> bool:
    """Whether the process that NVML means is the one that has this pid here.

    In a container, NVML may give the pids of the node. A process here that has one of them by chance does not have a
    GPU open.
    """
    if not (proc / str(pid)).is_dir():
        return False
    return _in_first_namespace(proc) or _has_gpu_open(proc / str(pid) / "fd")


def _has_gpu_open(descriptors: Path) -> bool:
    try:
        return any(str(one.readlink()).startswith("/dev/nvidia") for one in descriptors.iterdir())
    except OSError:
        # Of another user, or ended meanwhile.
        return False
