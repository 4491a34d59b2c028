"""Variables that a multi-GPU launch leaves in an environment, and their effect on one process on one GPU. Pure.

Sources: torchrun's own variables (PyTorch, "torchrun (Elastic Launch)"), the CUDA programming guide's environment
variables, PyTorch's compiler switches, and NCCL's manual through `nccl.settings`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from runner.base.remedy import Remedy
from runner.hardware.visible import NAME as VISIBLE
from runner.hardware.visible import listed, one_of
from runner.kit.nccl.settings import NcclSetting, judge_setting
from runner.kit.nccl.values import Judgement


class Harm(StrEnum):
    """Severity of a leftover for a single-GPU server; `low` is not a symptom."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True)
class Leftover:
    """A variable, its effect on one process on one GPU, and how to remove it."""

    name: str
    value: str
    harm: Harm
    does: str
    undo: Remedy


_Verdict = tuple[Harm, str] | None
_Rule = Callable[[str, int], _Verdict]


def _number(value: str) -> int | None:
    return int(value) if re.fullmatch(r"-?\d{1,18}", value.strip()) else None


def _above(limit: int, harm: Harm, does: str, otherwise: str) -> _Rule:
    """Harmful if the value is above a limit or not a number; else a low leftover."""

    def rule(value: str, cores: int) -> _Verdict:
        del cores
        number = _number(value)
        return (harm, does) if number is None or number > limit else (Harm.LOW, otherwise)

    return rule


def _always(harm: Harm, does: str) -> _Rule:
    return lambda value, cores: (harm, does)  # noqa: ARG005 - a rule has one shape


def _switch(harm: Harm, does: str) -> _Rule:
    """Harmful if the switch is on."""
    return lambda value, cores: (  # noqa: ARG005 - a rule has one shape
        (harm, does) if value.strip().lower() not in {"", "0", "false", "off", "no"} else None
    )


def _compile_switch(value: str, cores: int) -> _Verdict:
    """PyTorch compares with `1` exactly (2.13: `torch/_dynamo/config.py`, `eval_frame.py`)."""
    del cores
    if value == "1":
        return Harm.HIGH, "disables torch.compile silently, and with it its CUDA graphs"
    return (Harm.LOW, "ignored by PyTorch 2.13, which accepts only 1") if value not in {"", "0"} else None


def _threads(value: str, cores: int) -> _Verdict:
    if _number(value) == 1 and cores > 1:
        return (
            Harm.MEDIUM,
            f"limits torch to one CPU thread on {cores} cores; torchrun sets it and nothing resets it",
        )
    return None


def _visible(value: str, cores: int) -> _Verdict:
    del cores
    shown = listed(value)
    if not shown:
        return Harm.HIGH, "hides every GPU from CUDA"
    # Of several MIG instances, CUDA shows one.
    if len(shown) > 1 and not shown[0].startswith("MIG-"):
        return Harm.MEDIUM, "shows several GPUs, so a framework may split one model over them again"
    return None


_GROUP_OF_ONE = "describes a group of one, as intended; still a leftover"
_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "WORLD_SIZE": _above(
            1, Harm.HIGH, "makes this process wait at rendezvous for ranks that do not exist", _GROUP_OF_ONE
        ),
        "LOCAL_WORLD_SIZE": _above(1, Harm.MEDIUM, "counts processes that do not exist", _GROUP_OF_ONE),
        "RANK": _above(
            0, Harm.HIGH, "makes this process a rank other than 0, which waits for rank 0", _GROUP_OF_ONE
        ),
        "LOCAL_RANK": _above(0, Harm.HIGH, "selects a GPU index that may not exist any more", _GROUP_OF_ONE),
        "GROUP_RANK": _always(Harm.LOW, "is torchrun's number of the node"),
        "GROUP_WORLD_SIZE": _above(1, Harm.MEDIUM, "counts nodes that do not exist", _GROUP_OF_ONE),
        "ROLE_RANK": _always(Harm.LOW, "is torchrun's number within a role"),
        "ROLE_WORLD_SIZE": _above(1, Harm.MEDIUM, "counts processes that do not exist", _GROUP_OF_ONE),
        "ROLE_NAME": _always(Harm.LOW, "is torchrun's name of the role"),
        "MASTER_ADDR": _always(
            Harm.MEDIUM, "init_process_group connects to this address, which is stale or another job's"
        ),
        "MASTER_PORT": _always(
            Harm.MEDIUM, "init_process_group uses this port, which is stale or another job's"
        ),
        "TORCHELASTIC_RUN_ID": _always(Harm.MEDIUM, "makes torch assume that torchrun started this process"),
        "TENSOR_PARALLEL_SIZE": _above(
            1, Harm.HIGH, "requests more GPUs than the fallback has", _GROUP_OF_ONE
        ),
        "TP_SIZE": _above(1, Harm.HIGH, "requests more GPUs than the fallback has", _GROUP_OF_ONE),
        "NUM_SHARD": _above(1, Harm.HIGH, "requests more GPUs than the fallback has", _GROUP_OF_ONE),
        "OMP_NUM_THREADS": _threads,
        "MKL_NUM_THREADS": _threads,
        "OPENBLAS_NUM_THREADS": _threads,
        "CUDA_LAUNCH_BLOCKING": _switch(Harm.HIGH, "the CPU waits for every kernel launch"),
        "CUDA_DEVICE_MAX_CONNECTIONS": _above(
            1,
            Harm.LOW,
            "sets a queue count for another job",
            "leaves one hardware queue, so copies and kernels no longer overlap",
        ),
        VISIBLE: _visible,
        "TORCHDYNAMO_DISABLE": _compile_switch,
        "TORCH_COMPILE_DISABLE": _compile_switch,
        "PYTORCH_NO_CUDA_MEMORY_CACHING": _switch(Harm.HIGH, "calls the driver for every allocation"),
        "TORCH_DISTRIBUTED_DEBUG": lambda value, _: (
            (Harm.LOW, "adds checks to collectives") if value.upper() in {"INFO", "DETAIL"} else None
        ),
    }
)
_PREFIXES: Mapping[str, tuple[Harm, str]] = MappingProxyType(
    {
        "TORCHELASTIC_": (Harm.LOW, "is torchrun's own bookkeeping"),
        "TORCH_NCCL_": (Harm.LOW, "configures torch's NCCL watchdog; unused by one process"),
        "GLOO_": (Harm.LOW, "configures gloo; unused by one process"),
    }
)


def leftovers(environment: Mapping[str, str], cores: int, process: int | None = None) -> list[Leftover]:
    """The leftovers of a launch in this environment, worst first.

    Args:
        environment: of the server, or of the shell that will start it.
        cores: CPU cores of the host; on one core, one thread is correct.
        process: the process that has this environment; None for this shell.
    """
    found = []
    for name, value in sorted(environment.items()):
        verdict = _judge(name, value, cores)
        if verdict is not None:
            found.append(Leftover(name, value, *verdict, undo=_undo(name, value, process)))
    order = [Harm.HIGH, Harm.MEDIUM, Harm.LOW]
    return sorted(found, key=lambda leftover: order.index(leftover.harm))


def without_leftovers(environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """The environment after the clean-up: no leftovers, and one GPU if several or none were visible.

    That is the first of the caller's own GPUs: another one may belong to another job.
    """
    clean = dict(environment)
    for leftover in leftovers(environment, cores):
        if leftover.name == VISIBLE:
            clean[leftover.name] = one_of(leftover.value)
        else:
            del clean[leftover.name]
    return clean


def _judge(name: str, value: str, cores: int) -> _Verdict:
    if name in _RULES:
        return _RULES[name](value, cores)
    if name.startswith("NCCL_"):
        finding = judge_setting(NcclSetting(name, value, "environment"), 1)
        if finding.judgement is Judgement.HARMFUL:
            return Harm.MEDIUM, f"affects the next job on several GPUs ({finding.why})"
        return Harm.LOW, "configures NCCL, which one GPU does not use"
    return next((verdict for prefix, verdict in _PREFIXES.items() if name.startswith(prefix)), None)


def _undo(name: str, value: str, process: int | None) -> Remedy:
    # One of the caller's GPUs, as in the checklist. This also restores a GPU that an empty list or -1 had hidden.
    gpu = one_of(value) if name == VISIBLE else None
    if process is None:
        return Remedy.unset(name) if gpu is None else Remedy.pin(gpu)
    # The environment of a running process cannot be changed.
    how = "restart process {} without {}" if gpu is None else f"restart process {{}} with {{}}={gpu}"
    return Remedy.by_hand(f"{how}: it keeps its initial environment", str(process), name)
