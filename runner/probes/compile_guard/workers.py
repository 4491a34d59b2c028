"""Inductor's pool of compile workers, started so that its stacks can be had.

Inductor sends its workers' output to /dev/null. Here it goes to a file, and with PYTHONFAULTHANDLER set a worker that
is ended by SIGABRT writes the stacks of all its threads there.
"""

import contextlib
from pathlib import Path


def start_workers(output: Path) -> None:
    """Start the pool of this process now, as its first Triton kernel would, with the workers' output in a file.

    The two settings hold only while the pool starts: they are part of the cache's keys, and an entry made under them
    would serve no other process. Without a pool (one thread, another torch) nothing happens.
    """
    with contextlib.suppress(ImportError, AttributeError):
        import torch._inductor.config as inductor
        from torch._inductor.async_compile import AsyncCompile

        with inductor.patch(worker_suppress_logging=False, torchinductor_worker_logpath=str(output)):
            AsyncCompile.warm_pool()
            AsyncCompile.wakeup()
