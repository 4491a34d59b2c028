"""The process in the container's place: opens the device once, and says again and again what it may still do.

Each line on its standard input is answered by one line of JSON: `nodes`, the device nodes in the folder and why they
cannot be opened, and `held`, whether the descriptor that was opened at the start still works.
"""

import json
import os
import sys
from pathlib import Path

from runner.node.gpu.driver_access import device_nodes


def main(folder: Path) -> None:
    """Answer until standard input ends."""
    try:
        held = os.open(folder / "nvidiactl", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        held = None
    for _ in sys.stdin:
        works = held is not None and _writes(held)
        nodes = {node.name: node.refused for node in device_nodes(folder)}
        print(json.dumps({"nodes": nodes, "held": works}), flush=True)


def _writes(descriptor: int) -> bool:
    try:
        return os.write(descriptor, b"x") == 1
    except OSError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
