"""What the collectives probe measures, beside a loop written by hand: gloo all_reduce of two processes of this host.

    python benchmarks/gloo_all_reduce.py [--pairs 24] [--size 4MiB]

torchrun starts both sides once, and then they take turns, so that a drift of the machine falls on both alike: the
probe's own rank program, told what the probe tells it, and below it the loop of anyone's first script (barrier, clock,
n times all_reduce, clock). Both turns are means over the same number of iterations; the probe's are of the slowest rank
of each iteration, the loop's of the slower rank as a whole. The ratio should be near 1: 0.9 and more costs nothing that
matters. Results of the probe's side are checked element by element before anything is timed.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import fmean, median

from runner.base.stats import median_interval
from runner.base.units import format_bytes, format_value, parse_bytes
from runner.kit.collective_timing import bus_factor
from runner.kit.rank_line import RankLine
from runner.kit.ranks import World

RANKS, ITERATIONS, DEADLINE_S = 2, 20, 170.0
WORTH = 0.9


def by_hand() -> None:
    """One rank of the hand-written side: told a size, it times its loop once and says the seconds of one iteration."""
    import torch  # noqa: PLC0415 - the side that compares needs none
    import torch.distributed as dist  # noqa: PLC0415 - nor this

    line = RankLine()
    dist.init_process_group("gloo")
    line.send({"ready": True})
    for command in line.commands():
        tensor = torch.zeros(command["bytes"] // 4)
        for _ in range(3):
            dist.all_reduce(tensor)
        dist.barrier()
        began = time.perf_counter()
        for _ in range(ITERATIONS):
            dist.all_reduce(tensor)
        line.send({"seconds": (time.perf_counter() - began) / ITERATIONS})
    dist.destroy_process_group()


def probe_turn(world: World, size: int) -> float:
    """Seconds of one all_reduce as the probe takes them: of the slowest rank of each iteration."""
    command = {"op": "all_reduce", "bytes": size, "warmup": 3, "iterations": ITERATIONS}
    answers = world.ask(command, "timing")
    return fmean(max(times) for times in zip(*(answer["seconds"] for answer in answers), strict=True))


def hand_turn(world: World, size: int) -> float:
    """Seconds of one all_reduce by the loop, of the slower rank."""
    return float(max(answer["seconds"] for answer in world.ask({"bytes": size}, "timing")))


def main() -> None:
    """Print both bandwidths, their ratio pair by pair, and its interval."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--size", default="4MiB")
    arguments = parser.parse_args()
    size = parse_bytes(arguments.size)
    environment = {"GLOO_SOCKET_IFNAME": "lo"} | dict(os.environ)
    deadline = time.monotonic() + DEADLINE_S
    worker = ("-m", "runner.kit.collectives_worker", "--backend=gloo", f"--timeout={DEADLINE_S:g}")
    script = (str(Path(__file__).resolve()), "--rank")
    with (
        World(worker, RANKS, environment, deadline, "probe") as probe,
        World(script, RANKS, environment, deadline, "by hand") as hand,
    ):
        probe.ask(None, "joining")
        hand.ask(None, "joining")
        check = {"op": "all_reduce", "bytes": size, "check": True}
        wrong = sum(answer["wrong"] for answer in probe.ask(check, "checking"))
        probe_turn(probe, size), hand_turn(hand, size)
        pairs = []
        for turn in range(arguments.pairs):
            if turn % 2:
                theirs, ours = hand_turn(hand, size), probe_turn(probe, size)
            else:
                ours, theirs = probe_turn(probe, size), hand_turn(hand, size)
            pairs.append((ours, theirs))
    moved = size * bus_factor("all_reduce", RANKS)
    ratios = [theirs / ours for ours, theirs in pairs]
    interval = median_interval(ratios)
    if interval is None:
        sys.exit("two pairs or more are needed for an interval")
    print(f"gloo all_reduce of {format_bytes(size)}, {RANKS} processes, {len(pairs)} interleaved pairs")
    print(f"probe    bus bandwidth, median {format_value(moved / median(ours for ours, _ in pairs), 'B/s')}")
    print(
        f"by hand  bus bandwidth, median {format_value(moved / median(theirs for _, theirs in pairs), 'B/s')}"
    )
    print(
        f"ratio {median(ratios):.3f} [{interval.low:.3f} … {interval.high:.3f}], 95 % interval of the median"
    )
    print(f"wrong elements: {wrong}")
    if wrong or interval.high < WORTH:
        sys.exit(
            f"the probe is slower than the loop: its ratio stays below {WORTH}"
            if not wrong
            else "wrong results"
        )


if __name__ == "__main__":
    by_hand() if "--rank" in sys.argv else main()
