"""Whether compiled CUDA code runs on a GPU: machine code (`sm_90`) and PTX (`compute_90`) against a capability. Pure.

Rules and sources:

* `sm_XY` runs on capabilities of the same major version X and a minor version of at least Y (NVIDIA, CUDA Programming
  Guide, binary compatibility). Chips with an integrated GPU (5.3, 6.2, 7.2, 8.7, 10.1) run only code of their own
  (torch 2.13, torch/cuda/__init__.py, DEVICE_REQUIREMENT).
* `compute_XY` is PTX, which the driver compiles for every capability of at least X.Y.
* Suffix `a` (`sm_90a`, `sm_100a`): only on exactly this capability, as machine code and as PTX. Suffix `f` (`sm_100f`):
  on the same major version from this minor version on (NVIDIA's blog on family-specific features, CUDA 12.9, 2025-05).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from runner.base.errors import InputError

Capability = tuple[int, int]
How = Literal["exact", "compatible", "jit", "none"]

_TARGET = re.compile(r"(sm|compute)_(\d{1,2})(\d)([af]?)")
# As in TORCH_CUDA_ARCH_LIST: 9.0, 10.0a, 12.0+PTX.
_NUMBER = re.compile(r"(\d{1,2})\.(\d)([af]?)(\+PTX)?")
_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)")
_INTEGRATED = frozenset({(5, 3), (6, 2), (7, 2), (8, 7), (10, 1)})
# The chip with 10.1 has had the number 11.0 since CUDA 13.
_RENAMED = {(10, 1): (11, 0)}


@dataclass(frozen=True)
class CudaTarget:
    """What code was compiled for: `sm_100a`.

    Attributes:
        kind: `sm` is machine code, `compute` is PTX.
        suffix: `a`: this capability only; `f`: its family; empty: none.
    """

    kind: Literal["sm", "compute"]
    capability: Capability
    suffix: str = ""

    def __str__(self) -> str:
        return f"{self.kind}_{self.capability[0]}{self.capability[1]}{self.suffix}"

    def runs_on(self, capability: Capability) -> bool:
        """Whether a GPU of this capability runs it."""
        own = self.capability
        if capability in {own, _RENAMED.get(own)}:
            return True
        if self.suffix == "a":
            return False
        if self.kind == "compute" and not self.suffix:
            return capability >= own
        return capability[0] == own[0] and capability > own and not {own, capability} & _INTEGRATED


@dataclass(frozen=True)
class CodeFit:
    """Whether a GPU runs any of the code, and which.

    Attributes:
        how: `exact`: machine code for this capability. `compatible`: machine code for an older one of its family.
            `jit`: only PTX, which the driver compiles at the first use. `none`: it does not run.
        by: the code that runs; None if there is none.
    """

    how: How
    by: CudaTarget | None = None

    @property
    def runs(self) -> bool:
        """Whether there is code for this GPU."""
        return self.how != "none"


def fit(capability: Capability, targets: Iterable[CudaTarget]) -> CodeFit:
    """The best code for a GPU of this capability: the newest that runs, machine code before PTX."""
    usable = [target for target in targets if target.runs_on(capability)]
    binary = [target for target in usable if target.kind == "sm"]
    if binary:
        best = max(binary, key=lambda target: target.capability)
        return CodeFit("exact" if best.capability == capability else "compatible", best)
    if usable:
        return CodeFit("jit", max(usable, key=lambda target: target.capability))
    return CodeFit("none")


def parse_targets(words: Sequence[str]) -> tuple[CudaTarget, ...]:
    """The targets of a list, in either form: `sm_90 compute_90`, or `9.0 12.0+PTX` as in TORCH_CUDA_ARCH_LIST.

    Raises:
        InputError: a word is neither.
    """
    found = []
    for word in words:
        target, number = _TARGET.fullmatch(word), _NUMBER.fullmatch(word)
        if target:
            kind: Literal["sm", "compute"] = "sm" if target[1] == "sm" else "compute"
            found.append(CudaTarget(kind, (int(target[2]), int(target[3])), target[4]))
        elif number:
            capability = int(number[1]), int(number[2])
            found.append(CudaTarget("sm", capability, number[3]))
            if number[4]:
                found.append(CudaTarget("compute", capability, number[3]))
        else:
            raise InputError(
                f"{word[:40]!r} is not an architecture; write sm_90, compute_90, 9.0 or 12.0+PTX"
            )
    return tuple(found)


def parse_capability(text: str) -> Capability:
    """`10.3` as (10, 3).

    Raises:
        InputError: it is not of this form.
    """
    found = _CAPABILITY.fullmatch(text)
    if not found:
        raise InputError(f"{text[:40]!r} is not a compute capability; write 9.0 or 10.3")
    return int(found[1]), int(found[2])
