"""What `cuda_fit` does: reads what torch and its neighbours were compiled for, and compares it with the GPUs."""

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.base.errors import InputError, RunbookError
from runner.base.plain import one_line
from runner.base.programs import run_program
from runner.hardware.cuda_code import Capability, CudaTarget, parse_capability, parse_targets
from runner.hardware.gpus import Gpu, look_at_gpus
from runner.hardware.nvml import NvmlHungError, load_nvml, shut_down_nvml
from runner.kit.node_findings import node_findings
from runner.kit.probe import Findings, NotApplicableError, say
from runner.node.gpu.cuda_build import BuildFacts, BuildGpu, CodePackage, judge_build
from runner.node.gpu.driver_access import read_driver_access
from runner.vocabulary.sources import PASTED

# Packages with CUDA code that are often older than the torch beside them, as importlib.metadata knows them.
_PACKAGES = (
    "flash_attn",
    "flash_attn_3",
    "transformer_engine_cu12",
    "transformer_engine_cu13",
    "transformer_engine_torch",
    "vllm",
    "sgl_kernel",
    "xformers",
    "bitsandbytes",
    "causal_conv1d",
    "mamba_ssm",
    "deep_gemm",
    "deep_ep",
    "apex",
    "torchao",
)
_LISTED = re.compile(r"\.(sm|compute)_(\d{2,3}[af]?)\.(cubin|ptx)\b")
_CUOBJDUMP = "cuobjdump"
_FILE_S, _ALL_S = 30.0, 120.0
_MOST_TEXT = 4 << 20


def cuda_fit_findings(arguments: argparse.Namespace) -> Findings:
    """Judge this Python's CUDA code, or a pair that was pasted.

    Raises:
        InputError: an option without its partner, or one that cannot be read.
        NotApplicableError: no GPU is visible, or torch is for other GPUs.
        RunbookError: the GPUs cannot be read.
    """
    pasted = arguments.arch_list is not None
    if not pasted and any((arguments.capability, arguments.cuda, arguments.driver_cuda)):
        raise InputError("--capability, --cuda and --driver-cuda describe another node; add its --arch-list")
    facts = _pasted(arguments) if pasted else _here()
    requested = {"arch_list": arguments.arch_list, "capability": arguments.capability}
    simulated = not pasted and look_at_gpus().simulated
    effective = {"source": facts.source, "gpus": len(facts.gpus), "simulated": simulated}
    return node_findings(judge_build(facts), requested, effective, source=facts.source)


def _pasted(arguments: argparse.Namespace) -> BuildFacts:
    if arguments.capability is None:
        raise InputError(
            "--arch-list needs --capability: nvidia-smi --query-gpu=compute_cap --format=csv shows it"
        )
    words = re.sub(r"[\[\]'\",;]", " ", arguments.arch_list).split()
    if not words:
        raise InputError('--arch-list is empty; write it as in "sm_80 sm_90"')
    return BuildFacts(
        packages=(CodePackage("torch", "", parse_targets(words)),),
        gpus=(BuildGpu(0, "", parse_capability(arguments.capability)),),
        cuda=parse_capability(arguments.cuda) if arguments.cuda else None,
        driver_cuda=parse_capability(arguments.driver_cuda) if arguments.driver_cuda else None,
        source=PASTED,
    )


def _here() -> BuildFacts:
    seen = look_at_gpus()
    if seen.error is not None:
        raise RunbookError(f"the GPUs cannot be read ({seen.error}); see `runbook show gpu-not-usable`")
    if not seen.gpus:
        raise NotApplicableError(
            "this host has no NVIDIA GPU; --arch-list and --capability judge another node's"
        )
    import torch

    if torch.version.hip is not None:
        raise NotApplicableError("this torch is built for AMD GPUs")
    gpus = tuple(_gpus(seen.visible.gpus))
    if not gpus:
        raise NotApplicableError(
            f"no GPU is visible to CUDA ({seen.visible.hidden_by or 'unknown capability'})"
        )
    cuda = torch.version.cuda
    own = CodePackage("torch", torch.__version__, parse_targets(torch.cuda.get_arch_list()))
    if cuda is None:
        return BuildFacts(packages=(own,), gpus=gpus, cuda=None, driver_cuda=None)
    return BuildFacts(
        packages=(own, *_neighbours()),
        gpus=_launched(torch, gpus),
        cuda=parse_capability(cuda),
        # A library of forward compatibility brings a newer version than the driver's own.
        driver_cuda=None if read_driver_access().shadow else _driver_cuda(),
    )


def _gpus(gpus: Sequence[Gpu]) -> Iterator[BuildGpu]:
    for gpu in gpus:
        if gpu.compute_capability is not None:
            yield BuildGpu(gpu.index, gpu.name, parse_capability(gpu.compute_capability))


def _launched(torch: Any, gpus: tuple[BuildGpu, ...]) -> tuple[BuildGpu, ...]:
    """Run one addition on each; CUDA numbers the visible GPUs from 0."""
    found = []
    for place, gpu in enumerate(gpus):
        try:
            one = torch.ones(8, device=f"cuda:{place}") + 1
            right = bool((one == 2).all())  # noqa: PLR2004 - one and one
        except (RuntimeError, AssertionError) as error:
            say(f"GPU {gpu.index}: {one_line(str(error))[:300]}")
            right = False
        found.append(replace(gpu, launched=right))
    return tuple(found)


def _driver_cuda() -> Capability | None:
    nvml = load_nvml()
    if nvml is None:
        return None
    try:
        nvml.nvmlInit()
        version = nvml.nvmlSystemGetCudaDriverVersion_v2()
    except (nvml.NVMLError, NvmlHungError):
        return None
    finally:
        shut_down_nvml(nvml)
    return version // 1000, version % 1000 // 10


def _neighbours() -> Iterator[CodePackage]:
    tool = shutil.which(_CUOBJDUMP)
    until = time.monotonic() + _ALL_S
    for name in _PACKAGES:
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        libraries = [
            Path(str(package.locate_file(one))) for one in package.files or () if one.suffix == ".so"
        ]
        if not libraries:
            continue
        if tool is None:
            why = f"{_CUOBJDUMP} of the CUDA toolkit is not on the path; its first kernel will tell"
            yield CodePackage(name, package.version, None, why)
            continue
        try:
            targets = {target for one in libraries for target in listed_targets(_listing(tool, one, until))}
        except (OSError, subprocess.SubprocessError) as error:
            yield CodePackage(name, package.version, None, f"{_CUOBJDUMP}: {one_line(str(error))[:200]}")
            continue
        # A package without device code of its own compiles on demand, or calls others.
        if targets:
            yield CodePackage(name, package.version, tuple(sorted(targets, key=str)))


def _listing(tool: str, library: Path, until: float) -> str:
    texts = []
    for option in ("--list-elf", "--list-ptx"):
        left = min(_FILE_S, until - time.monotonic())
        if left <= 0:
            raise subprocess.TimeoutExpired(tool, _ALL_S)
        # It ends with an error for a library without device code.
        texts.append(run_program([tool, option, str(library)], timeout=left, text=True).stdout[:_MOST_TEXT])
    return "\n".join(texts)


def listed_targets(listing: str) -> tuple[CudaTarget, ...]:
    """The targets in the output of `cuobjdump --list-elf` and `--list-ptx`: `ELF file 1: a.1.sm_90a.cubin`."""
    words = {
        f"{'sm' if kind == 'cubin' else 'compute'}_{number}" for _, number, kind in _LISTED.findall(listing)
    }
    return parse_targets(sorted(words))
