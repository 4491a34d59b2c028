"""The GEMM of E4M3 values on a device: torch's own, or on some CPUs an fp32 GEMM of the same values.

On a GPU it is always `torch._scaled_mm`, which runs on the FP8 tensor cores; an error there is an error of the probe.
On a CPU, `_scaled_mm` computes in a wider type. Its plain form converts both operands to fp32 and multiplies, at the
cost of an fp32 GEMM. If oneDNN takes over without an optimized kernel, its reference code runs: with torch 2.13 on a
Xeon with AMX, 0.7 s for 128×256×256, 4.9 s for 128×512×1376 and 16 s for 128×1024×1024, thousands of times the fp32
GEMM; limited to AVX-512 it raises. On a CPU, only the accuracy of FP8 is of interest, and that depends only on the E4M3
values. So on a CPU, and only there, an fp32 GEMM of the same values replaces a native one that fails or is far too
slow. Its accuracy is the same up to fp32 rounding; its speed is not that of FP8, and no probe reports it as such.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from runner.kit.budget import Budget, budget, seconds_of

if TYPE_CHECKING:
    import torch

NATIVE, IN_FP32 = "torch._scaled_mm", "E4M3 values multiplied in fp32"
# The operator that profiles show for the fp32 GEMM.
OPERATOR = "runbook::e4m3_mm_in_fp32"
# The plain native GEMM takes about as long as the fp32 one, the reference code thousands of times as long. The bound is
# between: far above the noise of the best of ten single-threaded runs on a busy machine, and low enough that the few
# forward passes of a step's small model end in time.
HOPELESS = 50.0
_CALIBRATION_S, _REPEATS = 1.0, 10
# Rows, inner side, columns: each at most 8 times the work of the one before, so that its time can be estimated first.
_SHAPES = ((16, 16, 16), (32, 32, 32), (64, 64, 64), (128, 128, 128), (128, 256, 256))


class Multiply(Protocol):
    """The GEMM (a × scale_a) @ (b × scale_b) in `dtype`.

    a [rows, inner] is row-major and b [inner, columns] column-major, both E4M3; the scales are fp32, of one element, or
    [rows, 1] and [1, columns].
    """

    def __call__(
        self,
        a: "torch.Tensor",
        b: "torch.Tensor",
        scale_a: "torch.Tensor",
        scale_b: "torch.Tensor",
        dtype: "torch.dtype",
        /,
    ) -> "torch.Tensor": ...


@dataclass(frozen=True)
class Fp8Product:
    """The FP8 GEMM of a device.

    Attributes:
        multiply: the function; `torch.compile` treats it as one operator.
        why_not_native: why it is computed in fp32; None if it is torch's own.
    """

    multiply: Multiply
    why_not_native: str | None = None

    @property
    def native(self) -> bool:
        return self.why_not_native is None

    @property
    def name(self) -> str:
        """The implementation: `NATIVE` or `IN_FP32`."""
        return NATIVE if self.native else IN_FP32

    @property
    def described(self) -> str:
        """The name, with the reason if it is not torch's own."""
        return NATIVE if self.native else f"{IN_FP32}: {self.why_not_native}"


@cache
def fp8_product(device: str) -> Fp8Product:
    """The GEMM to use on `cuda` or `cpu`. On a CPU the first call times torch's own, for at most about a second."""
    if device != "cpu":
        return Fp8Product(native)
    why_not = why_not_native(native)
    return Fp8Product(native) if why_not is None else Fp8Product(in_fp32(), why_not)


def native(
    a: "torch.Tensor",
    b: "torch.Tensor",
    scale_a: "torch.Tensor",
    scale_b: "torch.Tensor",
    dtype: "torch.dtype",
) -> "torch.Tensor":
    """The FP8 GEMM of torch (see `Multiply`). Raises RuntimeError if the device does not support it."""
    import torch

    # As inference engines do. Hopper's tensor cores then accumulate with fewer bits, and are faster; the worst layer of
    # a model of 8b still had 28.4 dB (class 1xH200-141GB, torch 2.11.0, 2026-11-27). CPUs do not have this option.
    return torch._scaled_mm(  # noqa: SLF001 - torch's only FP8 GEMM has a private name
        a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=a.is_cuda
    )


def in_fp32() -> Multiply:
    """The GEMM in fp32 (see `Multiply`), as a separate operator, visible in profiles and opaque to `torch.compile`."""
    return _registered()[1]


@cache
def _registered() -> tuple[Any, Multiply]:
    """The library object that must outlive the operator, and the operator."""
    import torch

    def product(
        a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, scale_b: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        return ((a.float() * scale_a) @ (b.float() * scale_b)).to(dtype)

    space, _, name = OPERATOR.partition("::")
    # `torch.library.custom_op` would do the same, but imports the compiler, which takes seconds.
    library: Any = torch.library.Library(space, "DEF")  # type: ignore[no-untyped-call]
    library.define(f"{name}(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, ScalarType dtype) -> Tensor")
    library.impl(name, product, "CompositeExplicitAutograd")
    return library, torch.ops.runbook.e4m3_mm_in_fp32.default


def why_not_native(multiply: Multiply) -> str | None:
    """Why this GEMM of E4M3 matrices is not usable on this CPU, compared with the fp32 one; None if it is.

    Times both on growing shapes, in one thread, which other processes disturb least. A shape whose time, extrapolated
    from the one before by the number of multiplications, does not fit the rest of a second is not run; the last shape
    that ran decides.
    """
    import torch

    usual, threads = in_fp32(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The first call, which loads libraries, is not timed.
        _of_shape(usual, _SHAPES[0])()
        _of_shape(multiply, _SHAPES[0])()
        return _too_slow(multiply, usual, budget(_CALIBRATION_S))
    except RuntimeError as error:
        return f"{NATIVE} fails on this CPU ({str(error).partition(chr(10))[0]})"
    finally:
        torch.set_num_threads(threads)


def _too_slow(multiply: Multiply, usual: Multiply, allowance: Budget) -> str | None:
    found, expected, work_before = None, 0.0, 1
    for shape in _SHAPES:
        work = math.prod(shape)
        if not allowance.has(expected * work / work_before):
            break
        # The fp32 GEMM first, because the other may use up the allowance.
        fair = _best(_of_shape(usual, shape), allowance)
        expected, work_before = _best(_of_shape(multiply, shape), allowance), work
        times = expected / fair
        sides = "×".join(map(str, shape))
        said = (
            f"{NATIVE} takes {expected * 1e3:.3g} ms for {sides} on this CPU, {times:.0f} times the fp32 GEMM"
        )
        found = said if times > HOPELESS else None
    return found


def _of_shape(multiply: Multiply, shape: tuple[int, int, int]) -> Callable[[], object]:
    import torch

    rows, inner, columns = shape
    a, b = _values(rows, inner), _values(columns, inner).t()
    scale = torch.ones(())
    return partial(multiply, a, b, scale, scale, torch.bfloat16)


def _values(rows: int, columns: int) -> "torch.Tensor":
    import torch

    return torch.linspace(-1, 1, rows * columns).reshape(rows, columns).to(torch.float8_e4m3fn)


def _best(run: Callable[[], object], allowance: Budget) -> float:
    """The shortest of a few runs, in seconds; at least one run, and more if they fit."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < _REPEATS and allowance.has(min(seconds))):
        seconds.append(seconds_of(run))
    return min(seconds)
