"""One rank that joins a group by its environment, and says how that ended: `{"message", "seconds"}`, a line of JSON.

An empty message: it joined. What torch warns of before goes to standard error.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from runner.kit.children import die_with_parent


def main(argv: Sequence[str] | None = None) -> int:
    """Join, print the line, end."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True, metavar="S")
    arguments = parser.parse_args(argv)
    if not die_with_parent(arguments.parent):
        return 1
    import torch.distributed as dist

    began, message = time.perf_counter(), ""
    try:
        dist.init_process_group("gloo", timeout=timedelta(seconds=arguments.timeout))
    except Exception as error:  # noqa: BLE001 - every way in which it can fail is the answer
        message = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
    seconds = time.perf_counter() - began
    print(json.dumps({"message": message, "seconds": seconds}), flush=True)
    # Threads of a group that did not come up can block the end of the interpreter.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
