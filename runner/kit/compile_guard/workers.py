"""Inductor's pool of compile workers: started and ready before a compile is timed.

With Triton installed, the first compile of a process starts a sidecar that imports torch, for several CPU seconds,
and the sidecar forks the workers. None of that is part of a compile: it happens once per process, whatever is compiled.
"""

import contextlib
import time
from collections.abc import Callable

# A pool that is not ready by then is not waited for: the compile itself may hang on it, under its deadline.
READY_S = 45.0


def begin() -> None:
    """Start the pool while the rest of the compiler is still to be imported, as far as Inductor itself would start it.

    The sidecar's imports take as long as those, so both take place at once. `start` does the rest, and gives the wait.
    """
    from torch._inductor import async_compile
    from torch.utils._triton import has_triton_package

    if hasattr(async_compile, "maybe_warm_pool") and has_triton_package():
        async_compile.maybe_warm_pool()


def start(*, gpu: bool) -> Callable[[], float]:
    """Start the pool that a compile in this process would start; the returned function waits until it is ready.

    Nothing is started without Triton, with one compile thread, or if TORCH_WARM_POOL forbids it on a CPU.

    Args:
        gpu: whether the model runs on a GPU; such a compile starts the pool in any case.

    Returns:
        A function that waits, `READY_S` at most, and returns the seconds that it waited.
    """
    from torch._inductor import async_compile
    from torch.utils._triton import has_triton_package

    pool = async_compile.AsyncCompile
    # The names are Inductor's own, of torch 2.9 to 2.13; another version starts its pool inside the compile.
    known = all(hasattr(pool, name) for name in ("process_pool", "wait_pool_ready", "wakeup"))
    if not known or not hasattr(async_compile, "maybe_warm_pool") or not has_triton_package():
        return lambda: 0.0
    async_compile.maybe_warm_pool()
    if gpu:
        pool.wakeup()
    # The pool is cached by its function; the number of cached results says whether there is one.
    if not pool.process_pool.cache_info().currsize:
        return lambda: 0.0

    def wait() -> float:
        began = time.monotonic()
        # A pool that died or cannot fork is found by the compile, which goes on without it, or has a deadline.
        with contextlib.suppress(Exception):
            pool.wait_pool_ready(timeout=READY_S)
        return time.monotonic() - began

    return wait
