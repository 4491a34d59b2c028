"""What `gpu_state` does: reads a group of NVML's facts once, or again and again for a while, and judges them."""

import argparse
import contextlib
import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from runner.base.errors import InputError, RunbookError
from runner.hardware.gpus import is_stand_in, why_unreadable
from runner.hardware.nvml import NvmlHungError, hung_calls, load_nvml, shut_down_nvml
from runner.kit.gpu_load import loaded_gpus
from runner.kit.node_findings import node_findings
from runner.kit.pasted_input import read_pasted
from runner.kit.probe import Findings, NotApplicableError
from runner.node.findings import NodeVerdict, NotRead
from runner.node.gpu.asking import NvmlAsker, OpenGpu, Refusal, open_gpus, unopened
from runner.node.gpu.group import GpuGroup, GpuReading, NvmlFailure
from runner.node.gpu.recovery_reading import read_recovery_requests
from runner.node.recovery import RecoveryRequest
from runner.vocabulary.sources import CAPTURED

# The modules `runner.node.gpu.NAME` with a `GROUP`.
GROUPS = ("memory", "links", "fabric", "software", "clocks", "pcie")
# Between two readings of a watch, in seconds.
_PACE_S = 1.0


def gpu_findings(arguments: argparse.Namespace) -> Findings:
    """Read and judge one group of this node's GPUs.

    With `--from`, the GPUs are those of another node, in a pasted text.

    Raises:
        InputError: the text cannot be read, or the group reads none.
        NotApplicableError: this host has no NVIDIA GPU, or the group does not apply to its GPUs.
        InputError: a load without a watch, or a negative time.
        RunbookError: the GPUs cannot be read, or what matters of them cannot.
    """
    if arguments.watch < 0 or (arguments.load and not arguments.watch):
        raise InputError("--load needs --watch S with S above zero, such as --watch 60")
    group: GpuGroup[Any] = importlib.import_module(f"runner.node.gpu.{arguments.group}").GROUP
    requested = {"group": arguments.group, "watch_s": arguments.watch, "load": arguments.load}
    if arguments.source is not None:
        judged = group.judge((GpuReading(0.0, _pasted_facts(group, arguments)),))
        # Numbers of another node are not numbers of this one.
        judged = replace(judged, numbers=())
        return node_findings(judged, requested, {"source": CAPTURED}, group=arguments.group, source=CAPTURED)
    with _started() as asker:
        if isinstance(asker, NvmlFailure):
            judged, gpus = _without_nvml(group, asker), 0
        else:
            opened = open_gpus(asker)
            gpus = len(opened)
            judged = _with_hung(_judged(group, asker, opened, arguments), asker.refusals)
    effective = {"source": "nvml", "gpus": gpus}
    found = node_findings(judged, requested, effective, group=arguments.group, source="nvml")
    return replace(found, simulated=is_stand_in(gpus))


def recovery_requests() -> dict[str, RecoveryRequest]:
    """PCI address → what the driver asks for now; empty if NVML does not start."""
    with _started() as asker:
        return {} if isinstance(asker, NvmlFailure) else read_recovery_requests(asker, open_gpus(asker))


def _pasted_facts(group: GpuGroup[Any], arguments: argparse.Namespace) -> Any:
    if group.parse is None:
        raise InputError(f"the group {group.name} is read from NVML only; run it on the node, without --from")
    if arguments.watch:
        raise InputError(
            "--watch reads this node again and again; it has no use for a text: omit one of the two"
        )
    return group.parse(read_pasted(arguments.source, "the output of nvidia-smi"))


@contextlib.contextmanager
def _started() -> Iterator[NvmlAsker | NvmlFailure]:
    nvml = load_nvml()
    if nvml is None:
        yield NvmlFailure(None, "NVML Shared Library Not Found")
        return
    try:
        nvml.nvmlInit()
    except NvmlHungError as error:
        yield NvmlFailure(None, str(error))
        return
    except nvml.NVMLError as error:
        yield NvmlFailure(error.value, str(error))
        return
    try:
        yield NvmlAsker(nvml)
    finally:
        shut_down_nvml(nvml)


def _without_nvml(group: GpuGroup[Any], failure: NvmlFailure) -> NodeVerdict:
    # A library that hangs is a sign of GPUs, whatever else the host shows.
    why = failure.text if hung_calls() else why_unreadable(failure.text)
    if why is None:
        raise NotApplicableError("this host has no NVIDIA GPU")
    if group.judge_failure is None:
        raise RunbookError(f"the GPUs cannot be read ({why}); see `runbook show gpu-not-usable`")
    return group.judge_failure(failure)


def _judged(
    group: GpuGroup[Any], asker: NvmlAsker, gpus: Sequence[OpenGpu], arguments: argparse.Namespace
) -> NodeVerdict:
    closed = tuple(
        NotRead(one.of, f"cannot be opened: {one.text}; see `runbook show gpu-not-usable`")
        for one in unopened(asker.refusals)
    )
    uncounted = asker.refusal("nvmlDeviceGetCount", "")
    if uncounted is not None:
        raise RunbookError(f"the GPUs cannot be counted ({uncounted}); see `runbook show gpu-not-usable`")
    if not gpus and not closed and not group.judge_failure:
        raise NotApplicableError("the driver is loaded and reports no GPU")
    with loaded_gpus() if arguments.load else contextlib.nullcontext():
        readings = tuple(_readings(group, asker, gpus, arguments.watch))
    judged = group.judge(readings)
    # The group about GPUs that cannot be used has a finding for each.
    return judged if group.judge_failure else replace(judged, not_read=judged.not_read + closed)


def _with_hung(judged: NodeVerdict, refusals: Sequence[Refusal]) -> NodeVerdict:
    """The verdict, with each call that did not return as unknown: the group need not look at every refusal."""
    told = "\n".join(map(str, judged.not_read))
    hung = {one.call: one for one in refusals if one.kind == "hung"}
    unknown = tuple(NotRead(one.of or "the node", one.text) for call, one in hung.items() if call not in told)
    return replace(judged, not_read=judged.not_read + unknown)


def _readings(
    group: GpuGroup[Any], asker: NvmlAsker, gpus: Sequence[OpenGpu], seconds: float
) -> Iterator[GpuReading[Any]]:
    began = time.monotonic()
    yield GpuReading(0.0, group.read(asker, gpus))
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(_PACE_S, left))
        yield GpuReading(time.monotonic() - began, group.read(asker, gpus))
