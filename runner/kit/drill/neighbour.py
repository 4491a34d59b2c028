"""A busy process, on one core or on one GPU, until it is ended."""

import argparse
import os
import sys
from collections.abc import Sequence

from runner.kit.children import die_with_parent

# What it prints when its GPU computes.
BUSY = "busy"
_SIDE = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Compute for ever."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--core", type=int)
    parser.add_argument("--gpu", type=int)
    parser.add_argument("--side", type=int, default=_SIDE, help="rows and columns of the matrices on a GPU")
    arguments = parser.parse_args(argv)
    if not die_with_parent(arguments.parent):
        return 1
    if arguments.gpu is None:
        os.sched_setaffinity(0, {arguments.core})
        while True:
            pass
    import torch

    side = arguments.side
    left = torch.rand(side, side, device=f"cuda:{arguments.gpu}", dtype=torch.bfloat16)
    torch.mm(left, left)
    torch.cuda.synchronize(arguments.gpu)
    print(BUSY, flush=True)
    while True:
        torch.mm(left, left)
        torch.cuda.synchronize(arguments.gpu)


if __name__ == "__main__":
    sys.exit(main())
