"""One rank of the `node_pairs` probe: joins the group of its pair and times an all_reduce in it.

A command `{"groups": [ranks of each pair], "bytes", "warmup", "iterations"}` is answered with `{"seconds": [one per
iteration]}`; empty for a rank that rests. All pairs of a round run at once. Results are checked for equality.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from runner.kit.rank_line import RankLine, serve


def main(argv: Sequence[str] | None = None) -> int:
    """Join the group of all ranks, then serve commands until the connection closes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", choices=("gloo", "nccl"), required=True)
    parser.add_argument(
        "--timeout", type=float, required=True, help="timeout of the process groups in seconds"
    )
    parser.add_argument(
        "--slow-rate", type=float, default=0.0, help="injected: bytes per second of this node"
    )
    arguments = parser.parse_args(argv)
    return serve(lambda line: _work(line, arguments))


def _work(line: RankLine, arguments: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    gpu = arguments.backend == "nccl"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    line.mark("in rendezvous")
    limit = timedelta(seconds=arguments.timeout)
    dist.init_process_group(arguments.backend, timeout=limit, device_id=device if gpu else None)
    try:
        line.send({"ready": True, "torch": torch.__version__})
        for command in line.commands():
            # Every rank must create every group, in the same order.
            groups = [(set(ranks), dist.new_group(ranks, timeout=limit)) for ranks in command["groups"]]
            mine = next((group for ranks, group in groups if line.rank in ranks), None)
            line.mark("in all_reduce")
            line.send(
                {"seconds": _timed(mine, command, device, arguments.slow_rate) if mine is not None else []}
            )
            # No rank tears its group down while its partner still uses it.
            dist.barrier()
            for _, group in groups:
                if group is not dist.GroupMember.NON_GROUP_MEMBER:
                    dist.destroy_process_group(group)
    finally:
        dist.destroy_process_group()


def _timed(group: Any, command: dict[str, Any], device: Any, slow_rate: float) -> list[float]:
    import torch
    import torch.distributed as dist

    data = torch.empty(command["bytes"] // 4, device=device)
    seconds = []
    for number in range(command["warmup"] + command["iterations"]):
        data.fill_(1.0)
        # Also waits for the partner, so that its own delay before this is not measured.
        dist.barrier(group=group)
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        if slow_rate:
            # What a link of this rate would take: the partner waits in its all_reduce.
            time.sleep(command["bytes"] / slow_rate)
        dist.all_reduce(data, group=group)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= command["warmup"]:
            seconds.append(time.perf_counter() - began)
    expected = dist.get_world_size(group)
    if not bool((data == expected).all()):
        raise ValueError(f"all_reduce gave a wrong result: not {expected} everywhere")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
