"""Checks the machine of a record: its facts must be present, possible and consistent."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from runner.base.units import format_value
from runner.hardware.boards import Board, board_of
from runner.hardware.gpus import Gpu
from runner.hardware.machine import Machine, joint_class, machine_class
from runner.record.gate.words import AGAIN, quoted
from runner.record.model import Record

# Numbers that are meaningless without the version of torch.
_NEEDS_TORCH = frozenset({"B/s", "FLOP/s", "token/s", "token/J", "W", "s", "dB"})
_ALIAS = re.compile(r"node-[0-9a-f]{6}")
# Tolerance between a known board's reported memory and its nominal size: GB or GiB, minus reserved memory.
_MEMORY_TOLERANCE = 0.25
# Numbers first, then a vendor suffix: `2.9.0a0+145a3a7bda.nv25.10`, `6.8.0-1021-nvidia-64k`, `3.12.3+`.
_VERSION = r"{numbers}(?:(?:[-+._~]|a|b|rc)[A-Za-z0-9.+_~-]*)?"
_FORMS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "driver": re.compile(r"\d{3,4}\.\d{2,3}(?:\.\d{1,3})?"),
        "torch": re.compile(_VERSION.format(numbers=r"(?:[2-9]|\d{2})\.\d{1,3}(?:\.\d{1,3})?")),
        "cuda": re.compile(r"\d{2}\.\d{1,2}(?:\.\d{1,4})?"),
        "nccl": re.compile(_VERSION.format(numbers=r"2\.\d{1,3}\.\d{1,3}")),
        "python": re.compile(_VERSION.format(numbers=r"3\.(?:1[1-9]|[2-9]\d)(?:\.\d{1,3})?")),
        # The kernel version of WSL has four numbers, which redaction takes for an IP address.
        "kernel": re.compile(_VERSION.format(numbers=r"(?:\[ip\]|\d{1,2}\.\d{1,3}(?:\.\d{1,4})?)")),
    }
)


def machine_problems(record: Record) -> Iterator[str]:
    """Problems with the machine, its class and its nodes."""
    machine = record.machine
    if not all(map(_ALIAS.fullmatch, (record.node_alias, *record.members))):
        yield f"has a node alias of an invalid form; {AGAIN}"
    yield from _member_problems(record)
    missing = _missing(record)
    if missing:
        yield f"lacks facts about its machine: {', '.join(missing)}; {AGAIN}"
    if machine.gpu_error is not None:
        yield f"was taken on a node whose GPUs could not be read ({machine.gpu_error}); repair the node first"
    named = machine_class(machine.gpus, machine.gpu_error, machine.processor)
    if record.members:
        named = joint_class(named, len(record.members))
    if named != machine.machine_class:
        yield f"machine_class is {machine.machine_class}, detected {named}; {AGAIN}"
    for name, form in _FORMS.items():
        version = getattr(machine, name)
        if version and not form.fullmatch(version):
            yield f"has the invalid {name} version {quoted(version)}; {AGAIN}"
    if machine.load is not None and machine.load < 0:
        yield f"has a load below zero; {AGAIN}"
    yield from _gpu_problems(machine)


def _member_problems(record: Record) -> Iterator[str]:
    members = record.members
    if members and (len(set(members)) < len(members) or members[0] != record.node_alias or len(members) == 1):
        yield f"lists duplicate nodes, or does not list its own node first; {AGAIN}"
    if len(set(record.joint_runs)) < len(record.joint_runs) or record.run_id in record.joint_runs:
        yield f"names a joint run twice, or names itself; {AGAIN}"


def _missing(record: Record) -> list[str]:
    machine = record.machine
    facts = {"cpu": machine.cpu, "os": machine.os, "kernel": machine.kernel, "python": machine.python}
    facts |= {"driver": machine.driver} if machine.gpus else {}
    measured = [one for step in record.steps if not step.simulated for one in step.measurements]
    if any(one.unit in _NEEDS_TORCH for one in measured):
        facts |= {"torch": machine.torch} | ({"cuda": machine.cuda} if machine.gpus else {})
    if any(one.labels.get("backend") == "nccl" for one in measured):
        facts |= {"cuda": machine.cuda, "nccl": machine.nccl}
    missing = [name for name, fact in facts.items() if not fact]
    return missing + [name for name in ("cores", "memory_bytes") if getattr(machine, name) <= 0]


def _gpu_problems(machine: Machine) -> Iterator[str]:
    gpus = machine.gpus
    if [gpu.index for gpu in gpus] != list(range(len(gpus))):
        yield f"does not number its GPUs from 0; {AGAIN}"
    for gpu in gpus:
        below = [name for name, value in _amounts(gpu).items() if value is not None and value <= 0]
        if below:
            yield f"gives GPU {gpu.index} a {below[0]} that is not above 0; {AGAIN}"
        board = board_of(gpu.name)
        if board is not None:
            yield from _board_problems(gpu, board, machine)


def _amounts(gpu: Gpu) -> Mapping[str, float | None]:
    return {
        "memory": gpu.memory_bytes,
        "multiprocessor clock": gpu.sm_clock_hz,
        "memory clock": gpu.memory_clock_hz,
        "power limit": gpu.power_limit_w,
    }


def _board_problems(gpu: Gpu, board: Board, machine: Machine) -> Iterator[str]:
    sold = board.memory_label_gb * 1e9
    if not gpu.mig and abs(gpu.memory_bytes - sold) > _MEMORY_TOLERANCE * sold:
        yield f"names GPU {gpu.index} a {board.name}, but it has {format_value(gpu.memory_bytes, 'B')}; {AGAIN}"
    if gpu.compute_capability not in {None, board.compute_capability}:
        yield (
            f"names GPU {gpu.index} a {board.name} of compute capability {quoted(gpu.compute_capability)}, "
            f"but that board has {board.compute_capability}; {AGAIN}"
        )
    branch = (machine.driver or "").partition(".")[0]
    if branch.isdecimal() and int(branch) < board.oldest_driver:
        yield (
            f"has driver {quoted(machine.driver)}, which does not support {board.name}: the oldest that does is "
            f"{board.oldest_driver}; {AGAIN}"
        )
