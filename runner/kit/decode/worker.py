"""The worker process of `gpt_large_optimized`: one environment, or one rank of it.

It reports when torch is loaded, and whether it forks. `{"start": true}` builds the model and returns its threads, its
type and torch's version; `{"end": true}` frees it. With --fork, each start is a separate child, forked from this
process after all imports: it builds the model in its own memory and saves the import time. It does not fork if the
imports have started the CUDA driver; then this process serves one start.

In between, each command is one turn, `{"new_tokens": n}`: a prefill, then n−1 steps. The answer is
`{"first": seconds, "rest": [seconds of each step], "waited": [share of time that threads waited for a core, in the
prefill, in the steps], "tokens": [of the first sequence]}`. `{"peak": n}` returns the peak memory of such a turn,
`{"replays": n}` the graph replays of n further steps, `{"launches": n}` their GPU launches under the profiler,
`{"cache": true}` the graphs of the step that were found in the compile cache, and those that were compiled.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runner.kit.allocations import follow_allocations
from runner.kit.compile_guard.figures import cache_counts
from runner.kit.compile_options import Mode
from runner.kit.decode.run_queue import share, waited
from runner.kit.profiling import launches_of, replays_of
from runner.kit.rank_line import RankLine
from runner.kit.tensor_parallel import joined
from runner.kit.transformer import import_models, open_model, random_tokens, usual_type
from runner.sizing.models import model_shape

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from runner.kit.decode.loop import Decoder

# Ranks that compile reach their first collective at different times; the overall deadline is the real limit.
_COLLECTIVE_TIMEOUT_S = 600.0
_SPIN_S = 0.003
WARM_STEPS = 3
# CUDA_ERROR_NOT_INITIALIZED of the CUDA driver.
_NOT_INITIALIZED = 3
# Exit status of a process that has reported its error to the caller.
_TOLD = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Build the model, then serve commands until the connection closes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--prompt-length", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--mode", type=Mode, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--fork", action="store_true")
    arguments = parser.parse_args(argv)
    line = RankLine()
    try:
        with contextlib.ExitStack() as stack:
            mesh = None
            if arguments.ranks > 1:
                group = joined(arguments.device, line.rank, arguments.ranks, _COLLECTIVE_TIMEOUT_S)
                mesh = stack.enter_context(group)
            _load()
            forks = arguments.fork and not driver_started()
            line.send({"loaded": True, "forks": forks})
            for _ in line.commands():
                if forks:
                    _in_a_child(line, lambda: _serve(line, arguments, None))
                else:
                    _serve(line, arguments, mesh)
    except Exception as error:  # noqa: BLE001 - every error must reach the caller
        line.send_error(error)
        return _TOLD
    return 0


def _load() -> None:
    """Import what every start needs. No computing here: a thread pool would not survive a fork."""
    import torch  # noqa: F401

    import_models()
    from transformers import LlamaForCausalLM, StaticCache  # noqa: F401


def driver_started() -> bool:
    """Whether this process has initialized the CUDA driver, after which a forked child cannot use a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    # The call does not initialize the driver. It fails with this error until another call has.
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != _NOT_INITIALIZED)


def _in_a_child(line: RankLine, work: Callable[[], None]) -> None:
    """Run it in a forked process, and wait for its end.

    Raises:
        RuntimeError: it was killed.
        SystemExit: it failed, and has reported why.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - every error must reach the caller
            line.send_error(error)
            os._exit(_TOLD)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    if ended == _TOLD:
        raise SystemExit(_TOLD)
    if ended:
        raise RuntimeError(f"the process of a start exited with status {ended}")


def _serve(line: RankLine, arguments: argparse.Namespace, mesh: "DeviceMesh | None") -> None:
    """One start: build the model, then one turn per command, until `end` or until the connection closes."""
    import torch

    from runner.kit.decode.loop import Decoder

    shape, device = model_shape(arguments.model), torch.device(arguments.device)
    dtype = usual_type(device.type)
    model = open_model(shape, dtype, device, mesh=mesh)
    decoder = Decoder(model, arguments.max_length, arguments.mode)
    prompt = random_tokens(shape, arguments.batch_size, arguments.prompt_length, device)
    line.send({"threads": torch.get_num_threads(), "dtype": str(dtype), "torch": torch.__version__})
    for command in line.commands():
        if "end" in command:
            # The answer confirms that this process has read its last command before the next start is requested.
            line.send({"ended": True})
            return
        if "peak" in command:
            line.send({"peak": _peak(decoder, model, prompt, command["peak"])})
        elif "replays" in command:
            line.send({"replays": replays_of(_steps(decoder, prompt, command["replays"]))})
        elif "launches" in command:
            found = launches_of(_steps(decoder, prompt, command["launches"]))
            line.send({"launches": None if found is None else dataclasses.asdict(found)})
        elif "cache" in command:
            line.send(dict(zip(("hits", "misses"), cache_counts(), strict=True)))
        else:
            line.send(_turn(decoder, prompt, command["new_tokens"]))


def _turn(decoder: "Decoder", prompt: "torch.Tensor", new_tokens: int) -> dict[str, Any]:
    cuda = prompt.device.type == "cuda"
    queued, began = [waited()], _now(cuda=cuda)
    tokens = [decoder.prefill(prompt)]
    first = _now(cuda=cuda) - began
    queued.append(waited())
    marks = [_now(cuda=cuda)]
    for _ in range(new_tokens - 1):
        # A server streams every token, so every step is synchronized.
        tokens.append(decoder.step(tokens[-1]))
        marks.append(_now(cuda=cuda))
    queued.append(waited())
    # OpenMP threads spin for about a millisecond before they sleep; the next turn is in another process.
    time.sleep(_SPIN_S)
    spans = zip(pairwise(queued), (first, marks[-1] - marks[0]), strict=True)
    return {
        "first": first,
        "rest": [after - before for before, after in pairwise(marks)],
        "waited": [share(before, after, seconds) for (before, after), seconds in spans],
        "tokens": [int(token[0, 0]) for token in tokens],
    }


def _now(*, cuda: bool) -> float:
    import torch

    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(decoder: "Decoder", model: Any, prompt: "torch.Tensor", new_tokens: int) -> int:
    """Peak bytes: of the caching allocator on a GPU; of the tracked storages on a CPU, where every step is eager."""
    import torch

    if prompt.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        decoder.generate(prompt, new_tokens)
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    with torch.no_grad(), follow_allocations() as follower:
        follower.add(*model.parameters(), *model.buffers(), *decoder.cached())
        decoder.generate(prompt, new_tokens)
        return int(follower.peak)


def _steps(decoder: "Decoder", prompt: "torch.Tensor", steps: int) -> Callable[[], None]:
    """Decode until the steps are in steady state; the returned function decodes that many more."""
    tokens = [decoder.prefill(prompt)]
    for _ in range(WARM_STEPS):
        tokens.append(decoder.step(tokens[-1]))

    def work() -> None:
        for _ in range(steps):
            tokens.append(decoder.step(tokens[-1]))

    return work


if __name__ == "__main__":
    sys.exit(main())
