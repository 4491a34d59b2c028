"""What to do if NVML does not start: by its code, and by what the host shows of the driver. Pure."""

from dataclasses import dataclass, replace

from runner.base.words import ranges
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict
from runner.node.gpu.driver_access import DriverAccess
from runner.node.gpu.group import NvmlFailure

CGROUP_SOURCE = "nvidia-container-toolkit #48 (2023-02), #1227 (2025-08)"
_CODES = "NVIDIA, NVML API: return codes"
_NO_LIBRARY = "NVML Shared Library Not Found"
# nvmlReturn_t, as in nvidia-ml-py 13.615.
_LIBRARY_NOT_FOUND, _DRIVER_NOT_LOADED, _MISMATCH, _UNKNOWN, _HUNG = 12, 9, 18, 999, -1
_RECREATE = (
    "recreate the container; against the next time use CDI, the cgroupfs driver, or the links of"
    " nvidia-ctk system create-dev-char-symlinks --create-all"
)


@dataclass(frozen=True)
class _Cause:
    kind: str
    action: Action
    found: str
    next: str
    source: str = _CODES


def device_cgroup_finding(access: DriverAccess) -> NodeFinding:
    """Nodes that are there, whose mode allows it, and that the kernel does not let this process open."""
    names = [f"/dev/{node.name}" for node in access.denied if node.minor is None]
    gpus = [node.minor for node in access.denied if node.minor is not None]
    if gpus:
        names.append(f"/dev/nvidia{{{ranges(gpus)}}}" if len(gpus) > 1 else f"/dev/nvidia{gpus[0]}")
    return NodeFinding(
        kind="device-cgroup-denied",
        action=Action.RESTART,
        where="this process",
        found=f"the control group of devices denies {' and '.join(names)} (EPERM), as after systemctl daemon-reload",
        next=_RECREATE,
        source=CGROUP_SOURCE,
        evidence=tuple(f"/dev/{node.name}: {node.refused}" for node in access.denied),
    )


def judge_nvml_failure(failure: NvmlFailure, access: DriverAccess) -> NodeVerdict:
    """The verdict: no program here can use a GPU, and what to do about it."""
    host = access.host
    drivers = {gpu.driver for gpu in host.gpus}
    if drivers == {"vfio-pci"} and host.module_version is None:
        return NodeVerdict(not_applicable="the GPUs of this node are handed to virtual machines (vfio-pci)")
    if _is_cut_off(access) and _code(failure) not in {_MISMATCH, _HUNG}:
        finding = device_cgroup_finding(access)
    else:
        cause = _cause(failure, access)
        finding = NodeFinding(
            kind=cause.kind,
            action=cause.action,
            where="this process" if cause.action is Action.RESTART else "node",
            found=cause.found,
            next=cause.next,
            source=cause.source,
            evidence=_evidence(failure, access),
        )
    return NodeVerdict(
        findings=(finding,),
        numbers=(NodeNumber("gpus_opened", 0.0, (("source", "nvml"),)),),
        judged="whether NVML starts",
        facts={
            "nvml_code": failure.code,
            "nvml_text": failure.text,
            "module": host.module_version,
            "library": access.library,
            "nodes": {node.name: node.refused for node in access.nodes},
        },
        settings={"driver": host.module_version} if host.module_version else {},
    )


def _is_cut_off(access: DriverAccess) -> bool:
    """All GPU nodes, or the control node: a batch system denies single GPUs on purpose."""
    gpus = [node for node in access.nodes if node.minor is not None]
    return any(node.name == "nvidiactl" for node in access.denied) or (
        bool(gpus) and all(node in access.denied for node in gpus)
    )


def _code(failure: NvmlFailure) -> int:
    if failure.code is not None:
        return failure.code
    return _LIBRARY_NOT_FOUND if failure.text == _NO_LIBRARY else _HUNG


def _cause(failure: NvmlFailure, access: DriverAccess) -> _Cause:
    code = _code(failure)
    if code == _MISMATCH:
        return _mismatch(access)
    if code == _LIBRARY_NOT_FOUND:
        return _without_library(access)
    if code == _DRIVER_NOT_LOADED:
        return _not_loaded(access)
    if code == _UNKNOWN and access.in_container:
        return replace(_BY_CODE[code], action=Action.RESTART)
    if code in _BY_CODE:
        return _BY_CODE[code]
    return _Cause(
        "nvml-fails",
        Action.DRAIN,
        f"NVML does not start: {failure.text} (code {code})",
        "read the kernel log for NVRM and Xid lines (runbook show xid-triage), then reboot the node",
    )


# Those whose meaning does not depend on the host.
_BY_CODE = {
    _HUNG: _Cause(
        "nvml-hangs",
        Action.DRAIN,
        "NVML's start does not return: the driver hangs",
        "read the kernel log for Xid lines (runbook show xid-triage) and reboot the node; processes that wait for the"
        " driver cannot be killed",
        "chosen here: nothing but a restart of the driver ends a call that hangs in it",
    ),
    4: _Cause(
        "no-permission",
        Action.RESTART,
        "this user has no permission for the driver (code 4)",
        "compare ls -l /dev/nvidia* with id; run the job as a user of that group, or recreate the nodes with mode 0666",
    ),
    15: _Cause(
        "gpu-lost",
        Action.DRAIN,
        "NVML does not start: a GPU is lost (code 15)",
        "see runbook show xid-triage (Xid 79); reboot the node, and have the GPU checked if it returns",
    ),
    16: _Cause(
        "gpu-needs-reset",
        Action.RESET,
        "NVML does not start: a GPU needs a reset (code 16)",
        "end all jobs of the GPU, then nvidia-smi --gpu-reset -i N; on NVSwitch boards all GPUs together",
    ),
    17: _Cause(
        "blocked-by-system",
        Action.RESTART,
        "the operating system blocks the access to the GPU (code 17)",
        "within Windows (WSL), update the driver of Windows and run wsl --shutdown; elsewhere check the container's"
        " devices and security module",
        f"{_CODES}; microsoft/WSL #9938 (2023-04)",
    ),
    _UNKNOWN: _Cause(
        "nvml-unknown-error",
        Action.DRAIN,
        "NVML does not start: Unknown Error (code 999), and this process may open the device nodes",
        "run nvidia-smi on the host: if it works there, recreate the container; if not, read the kernel log and reboot",
        f"{CGROUP_SOURCE}; on the host it is a fault of the driver",
    ),
}


def _mismatch(access: DriverAccess) -> _Cause:
    module, library = access.host.module_version or "unknown", access.library or "of another version"
    return _Cause(
        "driver-library-mismatch",
        # The library may be the container's own.
        Action.RESTART if access.in_container else Action.DRAIN,
        f"the loaded kernel module is {module} and the library {library} (code 18)",
        "run nvidia-smi on the node: if it works there, recreate this container; if not, drain the node and reboot"
        if access.in_container
        else "end all GPU jobs, then reload the modules or reboot; hold the packages (apt-mark hold) against the next"
        " upgrade",
        f"{_CODES}; pando85/homelab #4110 (2026-06): unattended-upgrades",
    )


def _without_library(access: DriverAccess) -> _Cause:
    host = access.host
    if host.windows:
        return _Cause(
            "library-missing",
            Action.RESTART,
            "libnvidia-ml.so.1 is not found, and this is Linux within Windows",
            "put /usr/lib/wsl/lib on the library path; do not install a Linux driver",
        )
    if host.module_version is None:
        return _not_loaded(access)
    if access.node("nvidiactl") is None and not host.whole:
        return _Cause(
            "no-gpu-in-container",
            Action.RESTART,
            f"the node has driver {host.module_version}, and this container was started without GPUs: no library and no"
            " device node",
            "start it with GPUs: docker run --gpus all, or a Kubernetes resource nvidia.com/gpu",
            "NVIDIA, Container Toolkit: the toolkit adds library and nodes to a container that asks for GPUs",
        )
    if access.in_container:
        return _Cause(
            "library-missing",
            Action.RESTART,
            f"the node has driver {host.module_version}, and this container has no libnvidia-ml.so.1",
            "start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility, which adds the library",
            "NVIDIA, Container Toolkit, driver capabilities: utility adds nvidia-smi and NVML",
        )
    return _Cause(
        "library-missing",
        Action.DRAIN,
        f"the kernel module {host.module_version} is loaded, and libnvidia-ml.so.1 is not found",
        "install the driver's user libraries in the module's version, or repair the library path (ldconfig -p)",
    )


def _not_loaded(access: DriverAccess) -> _Cause:
    others = sorted(
        {gpu.driver for gpu in access.host.gpus if gpu.driver not in {None, "nvidia"}} - {None}, key=str
    )
    held = f"; {others[0]} holds the GPU" if others else ""
    return _Cause(
        "driver-not-loaded",
        Action.DRAIN,
        f"the kernel module nvidia is not loaded{held} (code {_DRIVER_NOT_LOADED})",
        "modprobe nvidia, and read dmesg if it fails: after a kernel upgrade the module is missing (dkms status), with"
        " Secure Boot it may be unsigned",
    )


def _evidence(failure: NvmlFailure, access: DriverAccess) -> tuple[str, ...]:
    found = [f"NVML: {failure.text}"]
    if access.host.module_version:
        found.append(f"/proc/driver/nvidia/version: {access.host.module_version}")
    if access.library:
        found.append(f"libnvidia-ml.so.{access.library}")
    return (*found, *(f"/dev/{node.name}: {node.refused}" for node in access.nodes if node.refused))
