"""Makes `torch._scaled_mm` on the CPU as slow as oneDNN's reference code, or refused, in every process started below.

Put this folder on PYTHONPATH, by its whole path; the demo on a machine whose own FP8 product is fast is then what it is
on one where that product is hopeless:

    PYTHONPATH=$PWD/tests/slow_fp8 nox -s demo
    PYTHONPATH=$PWD/tests/slow_fp8 SLOW_FP8=refused nox -s demo

The slow product is torch's own after a sleep in proportion to its multiplications: 0.7 s for 128×256×256. It is put in
where torch's dispatcher finds it, so that eager code, compiled code and profiles all meet it under its own name.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

REFUSED = "could not create a primitive descriptor for the matmul primitive"
MULTIPLICATIONS_PER_SECOND = 12e6


class AfterTorch(importlib.abc.MetaPathFinder):
    """Lets torch be found as ever, and changes it once it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                slow_down(module)

            loader.exec_module = exec_module
        return spec


def slow_down(torch: Any) -> None:
    """Put the slow product in the place of torch's own."""
    library = torch.library.Library("aten", "IMPL")
    for overload in ("_scaled_mm", "_scaled_mm.out"):
        own = torch.library.get_kernel(f"aten::{overload}", "CPU")

        def slow(a: Any, b: Any, *more: Any, own: Any = own, **named: Any) -> Any:
            if os.environ.get("SLOW_FP8") == "refused":
                raise RuntimeError(REFUSED)
            time.sleep(a.shape[0] * a.shape[1] * b.shape[1] / MULTIPLICATIONS_PER_SECOND)
            keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
            return own.call_boxed(keys, a, b, *more, **named)

        with warnings.catch_warnings():
            # That a kernel is replaced is the purpose.
            warnings.simplefilter("ignore")
            library.impl(overload, slow, "CPU")
    # It holds only as long as the library does.
    torch.slow_fp8 = library


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, AfterTorch())
