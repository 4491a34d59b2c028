"""Which GPUs CUDA shows to a process: reads CUDA_VISIBLE_DEVICES as CUDA does. Pure; does not import torch.

Sources: the CUDA programming guide (environment variables) for the list, NVIDIA's MIG user guide for instances: a
process gets one compute instance at most, and with one it gets no whole GPU. Numbers refer to the order of NVML, which
is CUDA's own order on a node whose boards are alike, or with CUDA_DEVICE_ORDER=PCI_BUS_ID; on any other node the
number of visible GPUs is still right.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runner.base.remedy import is_plain_gpu

NAME = "CUDA_VISIBLE_DEVICES"
# Set for each step of a run: number of GPUs that it can use, and of installed ones.
USABLE_GPUS, INSTALLED_GPUS = "RUNBOOK_GPUS", "RUNBOOK_INSTALLED_GPUS"
_One = TypeVar("_One")
_GPU, _MIG = "GPU-", "MIG-"
# Like strtol: leading digits count, and what follows them is ignored.
_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,9})(?![0-9])")
# The name of an instance before driver 470: the GPU, its GPU instance and its compute instance.
_OLD_INSTANCE = re.compile(r"MIG-(GPU-[^/]+)/(\d{1,4})/(\d{1,4})")


@dataclass(frozen=True)
class Instance:
    """One MIG device. `gpu_instance` and `compute_instance` are NVML's ids of its two parts."""

    memory_bytes: int
    uuid: str = ""
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True)
class InstalledGpu:
    """One installed GPU as far as it decides what is visible. UUIDs are read only to compare them, never stored."""

    uuid: str = ""
    mig: bool = False
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class VisibleDevice:
    """One device that CUDA shows: an installed GPU by number, or an instance of it."""

    gpu: int
    instance: Instance | None = None


def names_identifiers(value: str | None) -> bool:
    """Whether the list names its GPUs by UUID, so that UUIDs have to be read."""
    return value is not None and value.startswith((_GPU, _MIG))


def listed(value: str) -> list[str]:
    """The entries that CUDA reads: up to the first one that is invalid on any host; none if one is repeated."""
    prefix = next((prefix for prefix in (_GPU, _MIG) if value.startswith(prefix)), None)
    found: list[str] = []
    for entry in value.split(","):
        name = _number(entry) if prefix is None else entry if entry.startswith(prefix) else None
        if name is None:
            break
        if name in found:
            return []
        found.append(name)
    return found


def one_of(value: str) -> str:
    """The entry of a list that leaves one GPU visible: its first, or `0` if the list shows none."""
    first = next(iter(listed(value)), "")
    return first if is_plain_gpu(first) else "0"


def _number(entry: str) -> str | None:
    match = _NUMBER.match(entry)
    return str(int(match[1])) if match and int(match[1]) >= 0 else None


def visible_devices(value: str | None, devices: Sequence[InstalledGpu]) -> list[VisibleDevice]:
    """The devices that CUDA enumerates, in its order.

    Args:
        value: CUDA_VISIBLE_DEVICES; None if not set.
        devices: the installed GPUs in NVML's order.
    """
    if value is None:
        found = [one for index, device in enumerate(devices) for one in _first(index, device)]
    else:
        found = []
        for name in listed(value):
            one = _named(name, devices)
            if one is None:
                break
            if one in found:
                return []
            found.append(one)
    instances = [one for one in found if one.instance is not None]
    return instances[:1] or found


def _first(index: int, device: InstalledGpu) -> list[VisibleDevice]:
    """The GPU, or the first instance of a split one; nothing if it has none."""
    if not device.mig:
        return [VisibleDevice(index)]
    return [VisibleDevice(index, device.instances[0])] if device.instances else []


def _named(name: str, devices: Sequence[InstalledGpu]) -> VisibleDevice | None:
    if name.startswith(_MIG):
        return _instance(name, devices)
    if name.startswith(_GPU):
        number = _only(devices, lambda device: device.uuid.startswith(name))
    else:
        number = int(name) if int(name) < len(devices) else None
    return next(iter(_first(number, devices[number])), None) if number is not None else None


def _instance(name: str, devices: Sequence[InstalledGpu]) -> VisibleDevice | None:
    every = [VisibleDevice(index, one) for index, device in enumerate(devices) for one in device.instances]
    old = _OLD_INSTANCE.fullmatch(name)
    if old is not None:
        ids = int(old[2]), int(old[3])
        number = _only(devices, lambda device: device.uuid.startswith(old[1]))
        return next(
            (
                one
                for one in every
                if one.instance
                and one.gpu == number
                and (one.instance.gpu_instance, one.instance.compute_instance) == ids
            ),
            None,
        )
    place = _only(every, lambda one: one.instance is not None and one.instance.uuid.startswith(name))
    return None if place is None else every[place]


def _only(found: Sequence[_One], fits: Callable[[_One], bool]) -> int | None:
    """The place of the only one that fits; None if none or several do."""
    places = [place for place, one in enumerate(found) if fits(one)]
    return places[0] if len(places) == 1 else None
