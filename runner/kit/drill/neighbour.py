"""A busy process, on one core or on one GPU, until it is ended."""

import argparse
import os
import sys
from collections.abc import Sequence

from runner.kit.children import die_with_parent

_SIDE = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Compute for ever."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--core", type=int)
    parser.add_argument("--gpu", type=int)
    arguments = parser.parse_args(argv)
    if not die_with_parent(arguments.parent):
        return 1
    if arguments.gpu is None:
        os.sched_setaffinity(0, {arguments.core})
        while True:
            pass
    import torch

    left = torch.rand(_SIDE, _SIDE, device=f"cuda:{arguments.gpu}", dtype=torch.bfloat16)
    while True:
        torch.mm(left, left)
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
