"""A guard for `torch.compile`: the compile runs in a process that can be killed, and the model runs in any case.

`torch.compile(model)` is lazy: the compile happens inside the first forward, on the calling thread, and cannot be
interrupted from within that process. So the guard compiles **and** runs the first forward in a child process with its
own session, with a deadline. At the deadline it saves the stacks, kills the child and all its processes, and falls
back one level (rung): the whole model, then one repeated block at a time, then the same without Inductor's worker
pool, then eager. The level that worked is applied to the caller's own model, which starts from the child's compile
cache.

    from runner.kit.compile_guard import safe_compile

    guarded = safe_compile(build_model, {"layers": 48}, deadline_s=900)
    model, inputs = build_model(layers=48)
    with torch.no_grad():
        started = guarded.start(model, *inputs)   # compiled in place as `guarded.effective` says, from a warm cache

The child is spawned, not forked: forking a process with live threads or a CUDA context is a known cause of hangs.
Therefore `build_model` must be a top-level function that the child can import.
"""

from runner.kit.compile_guard.attempt import Attempt
from runner.kit.compile_guard.guarded import CacheMissWarning, Guarded, WarmStart
from runner.kit.compile_guard.ladder import safe_compile
from runner.kit.compile_guard.spec import Builder
from runner.kit.compile_options import LADDERS, Stall, add_compile_arguments

__all__ = [
    "LADDERS",
    "Attempt",
    "Builder",
    "CacheMissWarning",
    "Guarded",
    "Stall",
    "WarmStart",
    "add_compile_arguments",
    "safe_compile",
]
