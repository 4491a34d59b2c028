"""What `host_paths` does: reads a group of facts from this host or a captured tree, and judges them."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from runner.base.errors import InputError
from runner.kit.judged import judged_pid
from runner.kit.node_findings import node_findings
from runner.kit.probe import Findings
from runner.node.host.group import HostGroup
from runner.node.host.tree import HostTree

# The modules `runner.node.host.NAME` with a `GROUP`.
GROUPS = ("limits", "pci", "rdma", "settings")


def host_findings(arguments: argparse.Namespace) -> Findings:
    """Read and judge one group.

    Raises:
        InputError: the captured tree is not a folder, or both a tree and a process were named.
        NotApplicableError: the group does not apply to this host.
        RunbookError: what matters of it cannot be read.
    """
    root: Path | None = arguments.root
    if root is not None and not root.is_dir():
        raise InputError(f"{root} is not a folder; name the folder that holds proc/ and sys/")
    if root is not None and arguments.pid is not None:
        raise InputError("--root reads a captured tree and --pid a running process; use one of them")
    pid = arguments.pid if arguments.pid is not None or root else judged_pid()
    if pid is not None and not Path(f"/proc/{pid}").is_dir():
        raise InputError(f"there is no process {pid}; ps -e lists the running ones")
    group: HostGroup[Any] = importlib.import_module(f"runner.node.host.{arguments.group}").GROUP
    judged = group.judge(group.read(HostTree(root, pid)))
    source = "host" if root is None else "captured"
    of = "this shell" if pid is None else "a running process"
    return node_findings(
        judged,
        {"group": arguments.group, "of": of},
        {"source": source},
        group=arguments.group,
        source=source,
    )
