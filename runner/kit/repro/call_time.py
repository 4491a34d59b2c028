"""The measurement of `compile_call`: the call of torch.compile, and the first forward."""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from runner.base.errors import RunbookError
from runner.hardware.machine import look_visible as look
from runner.kit.children import ended_by_sigterm
from runner.kit.compile_guard import workers
from runner.kit.probe import Findings, say, single
from runner.kit.repro.growing_models import chain

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")
_TURNS = 1
_TOLERANCE = 1e-3


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    """The result of the work and the wall seconds that it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def call_findings(arguments: argparse.Namespace) -> Findings:  # noqa: ARG001 - the work of every probe has this signature
    """Time the call of torch.compile and the first forward of one small module.

    Raises:
        RunbookError: the compiled output is wrong.
    """
    import torch

    workers.begin()
    from torch._inductor import compile_fx  # noqa: F401 - imported here so that the call does not pay for it
    from torch._inductor.utils import fresh_cache

    device = "cuda" if look().gpus else "cpu"
    if device == "cuda":
        # The graph has no matrix product; Inductor advises this setting in any case.
        torch.set_float32_matmul_precision("high")
    model, inputs = chain(turns=_TURNS, device=device)
    workers.start(gpu=device == "cuda")()
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="compile-call-") as caches:
        torch.compiler.reset()
        with torch.no_grad(), fresh_cache(dir=caches):
            compiled, call_s = _timed(lambda: torch.compile(model))
            graphs_after_call = _graphs()
            answer, forward_s = _timed(lambda: _forward(compiled, inputs))
            expected = model(*inputs)
    if not torch.allclose(answer, expected, atol=_TOLERANCE):
        raise RunbookError("the compiled output differs from eager's: this compile does not count")
    say(f"torch.compile(model) returned after {call_s:.3f} s; the first forward took {forward_s:.3f} s")
    return Findings(
        measurements=[
            single("compile_call_share", call_s / (call_s + forward_s)),
            single("compile_call_time", call_s),
            single("first_forward_time", forward_s),
        ],
        effective={"device": device, "torch": torch.__version__},
        details={"graphs_after_call": graphs_after_call, "graphs_after_forward": _graphs()},
    )


def _graphs() -> int:
    """How many graphs Dynamo has handed to a compiler in this process since it was last reset."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _forward(model: Callable[..., "Tensor"], inputs: tuple["Tensor", ...]) -> "Tensor":
    """One forward; returns when its device has finished."""
    import torch

    answer = model(*inputs)
    if answer.is_cuda:
        torch.cuda.synchronize()
    return answer
