"""Whether programs can use this node's GPUs: driver, library and device nodes fit, and every GPU can be opened."""

import re
from collections.abc import Iterator, Sequence

from runner.base.words import counted, ranges
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.gpu.asking import Refusal
from runner.node.gpu.driver_access import read_driver_access
from runner.node.gpu.group import GpuGroup, GpuReading, NvmlFailure
from runner.node.gpu.nvml_failure import CGROUP_SOURCE, device_cgroup_finding, judge_nvml_failure
from runner.node.gpu.software_reading import GpuSoftware, SoftwareFacts, read_software
from runner.node.gpu.together import known_settings, same_on_all

_PERSISTENCE = "NVIDIA, Driver Persistence (r560, 2024-11)"
_FORWARD = "NVIDIA, CUDA Compatibility, forward compatibility: data centre GPUs and some RTX boards only"
# Boards for which NVIDIA supports no forward compatibility, and that sit in desktops.
_DESKTOP = re.compile(r"GeForce|TITAN", re.IGNORECASE)


def judge_software(readings: Sequence[GpuReading[SoftwareFacts]]) -> NodeVerdict:
    """The verdict on the newest reading."""
    facts = readings[-1].facts
    findings = (
        *(_unopened(one) for one in facts.unopened if one.kind not in {"closed", "hung"}),
        *_hung(facts),
        *_versions(facts),
        *_nodes(facts),
        *_missing(facts),
        *_shadowed(facts),
        *_modes(facts),
    )
    closed = [one for one in facts.unopened if one.kind == "closed"]
    numbers = (NodeNumber("gpus_opened", float(len(facts.gpus)), (("source", "nvml"),)),)
    return NodeVerdict(
        findings=findings,
        # Containers and batch jobs are given a part of the GPUs; without any, nothing here can be judged.
        not_read=tuple(
            NotRead(one.of, "this process may not open it", matters=not facts.gpus) for one in closed
        ),
        numbers=numbers if facts.gpus or findings else (),
        judged=f"versions, modes and device nodes of {counted(len(facts.gpus), 'GPU')}" if facts.gpus else "",
        not_applicable=None
        if facts.gpus or facts.unopened
        else "the driver is loaded and gives this process no GPU",
        facts=_shown(facts),
        settings=_settings(facts),
    )


def judge_failure(failure: NvmlFailure) -> NodeVerdict:
    """The verdict on an NVML that does not start, with what this host shows of the driver."""
    return judge_nvml_failure(failure, read_driver_access())


def _unopened(refusal: Refusal) -> NodeFinding:
    if refusal.kind == "reset":
        kind, action = "gpu-needs-reset", Action.RESET
        next_step = "end its jobs, then nvidia-smi --gpu-reset -i N; on NVSwitch boards all GPUs together"
        vendor: str | None = "GPU requires reset (NVML code 16)"
    else:
        kind = "gpu-lost" if refusal.kind == "lost" else "gpu-not-opened"
        action, vendor = Action.DRAIN, None
        next_step = (
            "see its Xid (runbook show xid-triage) and reboot the node; if it returns, have the GPU checked"
        )
    return NodeFinding(
        kind=kind,
        action=action,
        where=refusal.of,
        found=f"cannot be opened: {refusal.text}",
        next=next_step,
        source="NVIDIA, NVML API: return codes",
        evidence=(str(refusal),),
        vendor=vendor,
    )


def _hung(facts: SoftwareFacts) -> Iterator[NodeFinding]:
    if not facts.hung:
        return
    yield NodeFinding(
        kind="nvml-hangs",
        action=Action.DRAIN,
        where=facts.stuck or "node",
        found=f"{' and '.join(facts.hung)} did not return: the driver hangs",
        next="read the kernel log for Xid lines (runbook show xid-triage), then reboot the node",
        source="chosen here: nothing but a restart of the driver ends a call that hangs in it",
    )


def _versions(facts: SoftwareFacts) -> Iterator[NodeFinding]:
    module, library = facts.access.host.module_version, facts.access.library
    found = {
        "kernel module": module,
        "library libnvidia-ml": library,
        # Within Windows, NVML names the driver of Windows.
        "driver by NVML": None if facts.access.host.windows else facts.driver,
    }
    known = {name: version for name, version in found.items() if version}
    if len(set(known.values())) < 2 or module is None:  # noqa: PLR2004 - two that differ
        return
    yield NodeFinding(
        kind="driver-library-mismatch",
        action=Action.RESTART if facts.access.in_container else Action.DRAIN,
        where="this process" if facts.access.in_container else "node",
        found=", ".join(f"{name} {version}" for name, version in known.items()),
        next="run nvidia-smi on the node: if it works there, recreate this container; if not, drain the node and reboot"
        if facts.access.in_container
        else "reload the modules or reboot, so that all are of one version; hold the packages against the next upgrade",
        source="NVIDIA, NVML API: code 18, library and kernel module must have the same version",
    )


def _nodes(facts: SoftwareFacts) -> Iterator[NodeFinding]:
    access = facts.access
    # Single GPUs are denied on purpose by batch systems (Slurm's ConstrainDevices); these two never are.
    if any(node.name in {"nvidiactl", "nvidia-uvm"} for node in access.denied):
        yield device_cgroup_finding(access)
    if access.node("nvidiactl") is None:
        return
    if access.node("nvidia-uvm") is None:
        loaded = access.host.modules is not None and "nvidia_uvm" in access.host.modules
        lasting = loaded and not access.can_create_nodes
        yield NodeFinding(
            kind="uvm-node-missing",
            action=Action.RESTART if lasting else Action.KEEP,
            where="this process",
            found="/dev/nvidia-uvm is missing, which CUDA needs",
            next="recreate the container with all nodes; on the host, nvidia-modprobe -u -c=0"
            if lasting
            else "CUDA creates it at its first start (nvidia-modprobe); nothing to do if that works",
            source="NVIDIA, Container Toolkit: /dev/nvidia-uvm is one of the nodes of every container with GPUs",
        )
    runtimes = access.host.daemons & {"dockerd", "containerd", "crio"}
    if access.linked is False and runtimes and access.host.whole:
        yield NodeFinding(
            kind="dev-char-links-missing",
            action=Action.KEEP,
            where="node",
            found=f"/dev/char has no links to NVIDIA's devices, and {', '.join(sorted(runtimes))} runs here",
            next="where containers use systemd's cgroups without CDI, a daemon-reload takes their GPUs:"
            " nvidia-ctk system create-dev-char-symlinks --create-all",
            source=CGROUP_SOURCE,
        )


def _missing(facts: SoftwareFacts) -> Iterator[NodeFinding]:
    """GPUs among the PCI devices that NVML does not have, of those that this process may use."""
    opened = {gpu.bus_id for gpu in facts.gpus}
    access = facts.access
    held = [gpu for gpu in access.host.gpus if gpu.driver == "nvidia"]
    absent = [gpu for gpu in held if gpu.bus_id not in opened and access.may_use(gpu.bus_id)]
    if len(absent) > len(facts.unopened):
        yield NodeFinding(
            kind="gpu-missing",
            action=Action.DRAIN,
            where=f"GPU {', '.join(gpu.bus_id for gpu in absent)}",
            found=f"the driver holds {counted(len(held), 'GPU')} on PCIe, and NVML reports"
            f" {len(facts.gpus) + len(facts.unopened)}",
            next="read the kernel log for RmInitAdapter and Xid lines of this device, then reboot the node",
            source="chosen here: a GPU that the driver holds and does not offer has failed at its start",
        )
    models = {gpu.model for gpu in held}
    orphans = [gpu for gpu in access.host.gpus if gpu.driver is None and gpu.model in models]
    if orphans and access.host.whole and not access.container:
        yield NodeFinding(
            kind="gpu-without-driver",
            action=Action.DRAIN,
            where=f"GPU {', '.join(gpu.bus_id for gpu in orphans)}",
            found=f"no driver holds it, while {counted(len(held), 'equal GPU')} of this node have one",
            next="read the kernel log for `nvidia: probe of` this device, then reboot the node",
            source="chosen here: equal GPUs of a node have the same driver unless its start failed",
        )


def _shadowed(facts: SoftwareFacts) -> Iterator[NodeFinding]:
    shadow, driver = facts.access.shadow, facts.access.host.module_version or facts.driver
    if shadow is None or driver is None or shadow.version == driver or facts.access.host.windows:
        return
    older = _numbers(shadow.version) < _numbers(driver)
    desktop = any(_DESKTOP.search(gpu.name) for gpu in facts.gpus)
    yield NodeFinding(
        kind="cuda-library-shadowed",
        action=Action.RESTART if older or desktop else Action.KEEP,
        where="this process",
        found=f"LD_LIBRARY_PATH puts libcuda {shadow.version} of {shadow.folder} before that of driver {driver}",
        next="remove the folder from LD_LIBRARY_PATH"
        + (
            ""
            if older
            else ": these boards have no forward compatibility (error 804)"
            if desktop
            else " if CUDA returns error 803 or 804; on data centre GPUs this is forward compatibility"
        ),
        source=_FORWARD,
    )


def _modes(facts: SoftwareFacts) -> Iterator[NodeFinding]:
    prohibited = [gpu.index for gpu in facts.gpus if gpu.compute_mode == "Prohibited"]
    if prohibited:
        yield NodeFinding(
            kind="compute-mode-prohibited",
            action=Action.RESTART,
            where=f"GPU {ranges(prohibited)}",
            found="compute mode Prohibited: no CUDA program can use it",
            next="nvidia-smi -i N -c DEFAULT, as root",
            source="NVIDIA, nvidia-smi: compute modes",
        )
    cold = [gpu.index for gpu in facts.gpus if gpu.persistent is False and _is_server(gpu)]
    if cold and not facts.access.host.windows:
        yield NodeFinding(
            kind="persistence-off",
            action=Action.KEEP,
            where=f"GPU {ranges(cold)}",
            found="persistence mode is off: without a process the driver lets the GPU go, with its power limit, clocks"
            " and volatile error counts",
            next="start nvidia-persistenced",
            source=_PERSISTENCE,
        )


def _is_server(gpu: GpuSoftware) -> bool:
    return not _DESKTOP.search(gpu.name) and gpu.virtualization != "vGPU"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _cuda(version: int | None) -> str | None:
    return None if version is None else f"{version // 1000}.{version % 1000 // 10}"


def _settings(facts: SoftwareFacts) -> dict[str, str]:
    gpus = facts.gpus
    found = {
        "driver": facts.driver,
        "CUDA of the driver": _cuda(facts.cuda),
        "VBIOS": same_on_all(gpu.vbios for gpu in gpus),
        "GSP firmware": same_on_all(gpu.gsp for gpu in gpus),
        "InfoROM": same_on_all(gpu.inforom for gpu in gpus),
        "persistence mode": same_on_all(
            None if gpu.persistent is None else _switch(gpu.persistent) for gpu in gpus
        ),
        "MIG": same_on_all(_switch(gpu.mig) for gpu in gpus),
        "compute mode": same_on_all(gpu.compute_mode for gpu in gpus),
    }
    return known_settings(found)


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _shown(facts: SoftwareFacts) -> dict[str, object]:
    access = facts.access
    return {
        "driver": facts.driver,
        "module": access.host.module_version,
        "library": access.library,
        "cuda": _cuda(facts.cuda),
        "virtualization": same_on_all(gpu.virtualization for gpu in facts.gpus),
        "gpus": len(facts.gpus),
        "pci_gpus": len(access.host.gpus),
        "nodes": {node.name: node.refused for node in access.nodes},
        "shadow": access.shadow.folder if access.shadow else None,
        "hung": list(facts.hung),
    }


GROUP = GpuGroup("software", read_software, judge_software, judge_failure)
