"""One rank of a drill.

It joins the group and answers `{"ready": true, "torch": version}`. Commands:
`{"do": "measure"}` returns `{"unit": seconds}` of one unit of compute;
`{"do": "steps", "count", "units", "timeout", "longest", "fault"}` runs steps, with a fault or None, and returns
`{"steps": [...]}`; `{"do": "vote", …}` trains and votes, see `voting.voted`. A rank that ends with an exception first
writes its flight recorder into the folder of the drill, as NCCL's watchdog does, and says `{"ended": message}`.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.kit.children import die_with_parent
from runner.kit.drill.faults import FaultInjector
from runner.kit.drill.injection import Injection
from runner.kit.rank_line import RankLine

if TYPE_CHECKING:
    from runner.kit.drill.training import Training

DUMPS, DUMP = "dumps", "nccl_trace_rank_"
"""Where in the folder of the drill a rank writes its dump: a folder, and a prefix before its number."""

RELEASE, STOP = "release", "stop"
"""Files in the folder of the drill: the first ends a lateness, the second ends the steps."""


def main(argv: Sequence[str] | None = None) -> int:
    """Join the group, then serve commands until the line closes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", choices=("gloo", "nccl"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True, help="seconds of the group while it starts")
    arguments = parser.parse_args(argv)
    # A stopped rank would outlive a parent that was killed.
    if not die_with_parent(arguments.parent):
        return 1
    line = RankLine()
    try:
        _work(line, arguments)
    except Exception as error:  # noqa: BLE001 - every end of this rank is reported
        with contextlib.suppress(OSError):
            line.send({"ended": f"{type(error).__name__}: {error}".partition("\n")[0][:500]})
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        # Threads of a broken group can block the end of the interpreter.
        os._exit(1)
    return 0


def _work(line: RankLine, arguments: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    # More threads would only take the cores from the other ranks.
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if arguments.backend == "nccl":
        # Ranks may share GPUs, if NCCL is told so.
        device = torch.device("cuda", line.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    with _worker_server():
        line.mark("joining")
        dist.init_process_group(
            arguments.backend,
            timeout=timedelta(seconds=arguments.timeout),
            device_id=device if arguments.backend == "nccl" else None,
        )
        from runner.kit.drill.training import Training

        training = Training(device, arguments.timeout)
        line.send({"ready": True, "torch": torch.__version__})
        try:
            for command in line.commands():
                line.send(_answer(line, training, arguments.folder, command))
        except Exception:
            write_dump(arguments.folder / DUMPS / f"{DUMP}{line.rank}", arguments.backend)
            raise
        dist.destroy_process_group()


def _answer(
    line: RankLine, training: "Training", folder: Path, command: Mapping[str, Any]
) -> Mapping[str, object]:
    if command["do"] == "measure":
        return {"unit": training.unit_seconds()}
    if command["do"] == "vote":
        from runner.kit.drill.voting import voted

        return voted(training.device, line.rank, command)
    fault = Injection.of_command(command["fault"]) if command["fault"] else None
    injector = FaultInjector(fault, line.rank, line.mark, folder / RELEASE, command["longest"])
    training.prepare(command["units"], command["timeout"])
    stop = (folder / STOP).exists
    found = []
    for step in training.steps(command["count"], injector, stop):
        found.append(step)
        line.mark(f"step {len(found)}")
    return {"steps": found}


def write_dump(path: Path, backend: str) -> None:
    """Write the flight recorder of this process, with the stacks of its calls, as a pickle."""
    from torch._C import _distributed_c10d as c10d

    # NCCL's calls are in a recorder of their own. Releases before 2.6 have no other.
    names: Any = c10d
    dump = getattr(names, "_dump_fr_trace", None)
    if backend == "nccl" or dump is None:
        dump = names._dump_nccl_trace  # noqa: SLF001 - torch has no public name for it
    # With collectives, with stacks, and not only the active calls.
    path.write_bytes(dump(True, True, False))


@contextlib.contextmanager
def _worker_server() -> Iterator[None]:
    """Answer on the socket of TORCH_WORKER_SERVER_SOCKET, as a job under `torch.distributed.elastic` can."""
    from torch.distributed.elastic.control_plane import worker_main

    # It adds handlers to the server; releases before 2.10 do not have it.
    with contextlib.suppress(ImportError):
        import torch.distributed.debug._handlers  # noqa: F401
    server = worker_main()
    assert server is not None
    with server:
        yield


if __name__ == "__main__":
    sys.exit(main())
