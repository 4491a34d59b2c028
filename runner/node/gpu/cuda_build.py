"""Whether this Python's CUDA programs have code for the GPUs here, and a driver that is new enough. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from runner.hardware.cuda_code import Capability, CodeFit, CudaTarget, fit
from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead

_RULES = "NVIDIA, CUDA Programming Guide: binary and PTX compatibility"
_MINOR = "NVIDIA, CUDA Compatibility: minor version compatibility (13.x needs driver 580, 12.x 525, 11.x 450)"


@dataclass(frozen=True)
class CodePackage:
    """A package with CUDA code.

    Attributes:
        targets: what any of its files has code for; None if that could not be read.
        unread: why not.
    """

    name: str
    version: str
    targets: tuple[CudaTarget, ...] | None
    unread: str | None = None


@dataclass(frozen=True)
class BuildGpu:
    """A GPU that CUDA shows; `launched`: whether a kernel of torch ran on it; None if none was tried."""

    index: int
    name: str
    capability: Capability
    launched: bool | None = None


@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """What is installed, and what it has to run on.

    Attributes:
        packages: torch first.
        cuda: the CUDA version of this torch, as (12, 8); None: a build without CUDA.
        driver_cuda: the newest CUDA version of the driver; None if unknown, or if a library of forward compatibility
            decides instead.
        source: `cuda` for this Python and its GPUs, `pasted` for a pair that was given.
    """

    packages: tuple[CodePackage, ...]
    gpus: tuple[BuildGpu, ...]
    cuda: Capability | None
    driver_cuda: Capability | None
    source: str = "cuda"


def judge_build(facts: BuildFacts) -> NodeVerdict:
    """The verdict. A package without code for a GPU cannot run there, whatever else is installed."""
    names = ", ".join(f"{one.name} {one.version}".strip() for one in facts.packages)
    if facts.cuda is None and facts.source == "cuda":
        finding = NodeFinding(
            kind="build-without-cuda",
            action=Action.RESTART,
            where="this Python",
            found=f"{names} has no CUDA, and this node has GPUs",
            next="install torch from an index with CUDA: https://pytorch.org/get-started/locally/",
            source="torch: torch.version.cuda is None",
        )
        return NodeVerdict(findings=(finding,), judged=names, facts=_shown(facts))
    known = [one for one in facts.packages if one.targets is not None]
    return NodeVerdict(
        findings=(
            *_driver(facts),
            *(found for one in known for found in _package(one, facts)),
            *_launches(facts),
        ),
        not_read=tuple(
            NotRead(f"code of {one.name} {one.version}", one.unread or "unknown", matters=False)
            for one in facts.packages
            if one.targets is None
        ),
        numbers=(*(_number(one, facts) for one in known), *_measured(facts)),
        judged=f"code of {names} for {_gpus(facts.gpus)}",
        facts=_shown(facts),
        settings={one.name: one.version for one in facts.packages if one.version},
    )


def _number(package: CodePackage, facts: BuildFacts) -> NodeNumber:
    without = [gpu for gpu in facts.gpus if not fit(gpu.capability, package.targets or ()).runs]
    return NodeNumber(
        "gpus_without_code", float(len(without)), (("package", package.name), ("source", facts.source))
    )


def _measured(facts: BuildFacts) -> Iterator[NodeNumber]:
    source = ("source", facts.source)
    for gpu in facts.gpus:
        if gpu.launched is not None:
            yield NodeNumber("kernel_launched", float(gpu.launched), (("gpu", gpu.index), source))
    if facts.cuda and facts.driver_cuda:
        yield NodeNumber("toolkit_is_driver_cuda", float(facts.cuda == facts.driver_cuda), (source,))


def _package(package: CodePackage, facts: BuildFacts) -> Iterator[NodeFinding]:
    targets = package.targets or ()
    fits = {gpu: fit(gpu.capability, targets) for gpu in facts.gpus}
    without = [gpu for gpu, found in fits.items() if not found.runs]
    listed = " ".join(map(str, targets)) or "nothing"
    if without:
        yield NodeFinding(
            kind="no-code-for-gpu",
            action=Action.RESTART,
            where=f"{package.name} {package.version}".strip(),
            found=f"no code for {_gpus(without)}; it has code for {listed}",
            next=_remedy(package, without),
            source=_RULES,
            evidence=(f"{package.name}: {listed}",),
        )
    jit = [gpu for gpu, found in fits.items() if found.how == "jit"]
    if not jit:
        return
    too_new = facts.cuda is not None and facts.driver_cuda is not None and facts.driver_cuda < facts.cuda
    yield NodeFinding(
        kind="ptx-only",
        action=Action.RESTART if too_new else Action.KEEP,
        where=f"{package.name} {package.version}".strip(),
        found=f"only PTX ({fits[jit[0]].by}) for {_gpus(jit)}"
        + (
            f", of CUDA {_dotted(facts.cuda)}, and the driver reads PTX up to {_dotted(facts.driver_cuda)}: error 222"
            if too_new
            else ": the driver compiles it at the first use, which takes minutes for a large package"
        ),
        next="update the driver, or install a build with code for this GPU"
        if too_new
        else "keep the cache (CUDA_CACHE_PATH, CUDA_CACHE_MAXSIZE), or install a build with code for this GPU",
        source=_MINOR if too_new else _RULES,
    )


def _remedy(package: CodePackage, gpus: list[BuildGpu]) -> str:
    newest = max(gpu.capability for gpu in gpus)
    if package.name == "torch" and newest >= (10, 0):
        return "install a build of CUDA 12.8 or later (cu128, cu130)"
    if package.name == "torch":
        return "install a build for an older CUDA, which still has this architecture (cu126 has 5.0 to 9.0)"
    return f"install a newer {package.name}, or build it with TORCH_CUDA_ARCH_LIST={_dotted(newest)}"


def _driver(facts: BuildFacts) -> Iterator[NodeFinding]:
    cuda, driver = facts.cuda, facts.driver_cuda
    if cuda is None or driver is None or driver[0] >= cuda[0]:
        return
    yield NodeFinding(
        kind="driver-too-old",
        action=Action.RESTART,
        where="this Python",
        found=f"torch is built for CUDA {_dotted(cuda)}, and the driver supports {_dotted(driver)}",
        next=f"install torch for CUDA {driver[0]}, or update the driver",
        source=_MINOR,
    )


def _launches(facts: BuildFacts) -> Iterator[NodeFinding]:
    for gpu in facts.gpus:
        if gpu.launched is False:
            yield NodeFinding(
                kind="kernel-not-launched",
                action=Action.RESTART,
                where=f"GPU {gpu.index}",
                found="a kernel of torch fails here",
                next="read the message above; python -m runner.probes.gpu_state --group software judges the node",
                source="measured here: an addition on the GPU",
            )


def _gpus(gpus: tuple[BuildGpu, ...] | list[BuildGpu]) -> str:
    kinds = dict.fromkeys((gpu.name, gpu.capability) for gpu in gpus)
    return ", ".join(
        f"{name} ({_dotted(capability)})" if name else _dotted(capability) for name, capability in kinds
    )


def _dotted(version: Capability | None) -> str:
    return "unknown" if version is None else f"{version[0]}.{version[1]}"


def _shown(facts: BuildFacts) -> dict[str, object]:
    return {
        "cuda": _dotted(facts.cuda),
        "driver_cuda": _dotted(facts.driver_cuda),
        "packages": {one.name: [str(target) for target in one.targets or ()] for one in facts.packages},
        "gpus": {str(gpu.index): _dotted(gpu.capability) for gpu in facts.gpus},
        "fits": {
            one.name: {str(gpu.index): _fit_text(fit(gpu.capability, one.targets)) for gpu in facts.gpus}
            for one in facts.packages
            if one.targets is not None
        },
    }


def _fit_text(found: CodeFit) -> str:
    return found.how if found.by is None else f"{found.how} ({found.by})"
