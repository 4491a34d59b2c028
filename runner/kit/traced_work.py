"""The workload of `capture_fp8_flexattention_traces`: an FP8 GEMM and flex attention, separately; also under nsys.

python -m runner.kit.traced_work --preset tiny     # the same work, for another profiler
"""

import argparse
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.kit.children import Child
from runner.kit.precision.linear import COMPUTE_CAPABILITY, e4m3_scale, quantise
from runner.kit.precision.product import fp8_product
from runner.kit.probe import NotApplicableError
from runner.sizing.presets import PRESETS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Tokens of one sequence, width of the model, attention heads."""

    tokens: int
    width: int
    heads: int

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads


# One layer of the preset's model; `tiny` takes milliseconds on a CPU.
SHAPES: Mapping[str, Shape] = {
    "tiny": Shape(256, 256, 4),
    "8b": Shape(4096, 4096, 32),
    "40b": Shape(4096, 8192, 64),
    "70b": Shape(4096, 8192, 64),
}


@dataclass(frozen=True)
class Operation:
    """One operation: `run` returns its result, `exact` the same in fp32, `flops` is its cost."""

    name: str
    run: Callable[[], "Tensor"]
    exact: Callable[[], "Tensor"]
    flops: float


def operations(shape: Shape, device: str, *, compiled: bool) -> tuple[Operation, ...]:
    """Both operations on random data, ready to run.

    Raises:
        NotApplicableError: this GPU has no FP8.
    """
    import torch

    if device == "cuda" and torch.cuda.get_device_capability() < COMPUTE_CAPABILITY:
        name = torch.cuda.get_device_name()
        raise NotApplicableError(f"{name} has no FP8 tensor cores; they need compute capability 8.9 or later")
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> "Tensor":
        return torch.randn(*sizes, generator=generator).to(device)

    return (_product(shape, device, random), _attention(shape, device, random, compiled=compiled))


def _product(shape: Shape, device: str, random: Callable[..., "Tensor"]) -> Operation:
    """FP8 GEMM of activations with a square weight, one scale per tensor; it maps the largest value to FP8's largest.

    If a CPU multiplies the same values in fp32 instead, the operation has another name: its time is not that of FP8.
    """
    import torch

    left, right = random(shape.tokens, shape.width), random(shape.width, shape.width)
    scales = e4m3_scale(left), e4m3_scale(right)
    a, b = quantise(left, scales[0]), quantise(right, scales[1])
    product = fp8_product(device)

    def run() -> "Tensor":
        # The second operand must be column-major: the transpose of a row-major one.
        return product.multiply(a, b.t(), *scales, torch.bfloat16)

    name = "fp8_matmul" if product.native else "e4m3_matmul_in_fp32"
    return Operation(name, run, lambda: left @ right.t(), 2 * shape.tokens * shape.width**2)


def _attention(shape: Shape, device: str, random: Callable[..., "Tensor"], *, compiled: bool) -> Operation:
    """Causal flex attention; without `compiled` its eager form, which materializes the whole score matrix."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    sizes = (1, shape.heads, shape.tokens, shape.head_width)
    query, key, value = [random(*sizes).to(torch.bfloat16) for _ in range(3)]

    def causal(batch: "Tensor", head: "Tensor", at: "Tensor", to: "Tensor") -> "Tensor":
        del batch, head
        return at >= to

    mask = create_block_mask(causal, None, None, shape.tokens, shape.tokens, device=device)
    function: Any = torch.compile(flex_attention) if compiled else flex_attention

    def run() -> "Tensor":
        with warnings.catch_warnings():
            # Eager is requested here, so torch's advice to compile does not apply.
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            result: Tensor = function(query, key, value, block_mask=mask)
        return result

    # Two GEMMs of tokens² × head width per head, half of each masked.
    flops = 2 * shape.tokens**2 * shape.width

    def reference() -> "Tensor":
        return scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)

    return Operation("flex_attention", run, reference, flops)


def under_nsys(report: Path, work: Sequence[str], deadline_s: float) -> str:
    """Run `traced_work` under nsys; return the path of nsys's report, or why there is none.

    Args:
        report: path of the report, without its suffix.
        work: arguments of `traced_work`.
        deadline_s: seconds until nsys and everything that it started is ended.
    """
    nsys = shutil.which("nsys")
    if nsys is None:
        return "not on PATH"
    command = [
        nsys,
        "profile",
        "--trace=cuda,nvtx,osrt",
        "--force-overwrite=true",
        f"--output={report}",
        sys.executable,
        "-m",
        "runner.kit.traced_work",
        *work,
    ]
    with tempfile.TemporaryDirectory(prefix="nsys-") as folder:
        output = Path(folder) / "output"
        # nsys starts the work and agents of its own, which must end with it.
        try:
            with Child(command, os.environ, output) as child:
                ended = child.wait(deadline_s)
        except OSError as error:
            return f"no report: {error}".partition("\n")[0]
        said = output.read_text(encoding="utf-8", errors="replace").strip()
    if not ended:
        return f"no report: nsys did not end within {deadline_s:.0f} s"
    if child.status or not report.with_suffix(".nsys-rep").exists():
        last = said.splitlines()[-1:] or ["no output"]
        return f"no report: nsys exited with status {child.status}: {last[0][:200]}"
    return f"{report}.nsys-rep"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the work a few times, for an external profiler."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args(argv)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        for operation in operations(SHAPES[arguments.preset], device, compiled=arguments.compiled):
            for _ in range(arguments.iterations):
                operation.run()
    if device == "cuda":
        torch.cuda.synchronize()
    return 0


if __name__ == "__main__":
    sys.exit(main())
