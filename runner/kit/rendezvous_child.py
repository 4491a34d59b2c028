"""The process that `rendezvous` starts: it joins a process group if its environment describes one.

It first reports whether that is so (`{"group": true}`); on a command, it joins and returns
`{"failed": null, "seconds": s}`.
"""

import os
import sys
import time

from runner.kit.rank_line import RankLine


def main() -> int:
    """Report whether there is a group to join, and join it on command."""
    line = RankLine()
    import torch.distributed as dist

    line.send({"group": "WORLD_SIZE" in os.environ or "RANK" in os.environ})
    for _ in line.commands():
        began = time.perf_counter()
        try:
            dist.init_process_group("gloo")
            dist.destroy_process_group()
        except (RuntimeError, ValueError) as error:
            line.send({"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]})
        else:
            line.send({"failed": None, "seconds": time.perf_counter() - began})
    return 0


if __name__ == "__main__":
    sys.exit(main())
