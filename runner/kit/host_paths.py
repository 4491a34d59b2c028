"""What `host_paths` does: reads a group of facts from this host or a captured tree, and judges them."""

import argparse
import importlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.base.errors import InputError
from runner.kit.judged import judged_pid
from runner.kit.node_findings import node_findings
from runner.kit.probe import Findings, say
from runner.node.findings import NodeVerdict
from runner.node.host.capture import CapturingTree
from runner.node.host.group import HostGroup, HostReading
from runner.node.host.tree import HostTree
from runner.vocabulary.sources import CAPTURED

# The modules `runner.node.host.NAME` with a `GROUP`.
GROUPS = ("cpu", "limits", "pci", "rdma", "settings", "storage")


def host_findings(arguments: argparse.Namespace) -> Findings:
    """Read and judge one group.

    Raises:
        InputError: the captured tree is not a folder or holds no tree, or both a tree and a process were named.
        NotApplicableError: the group does not apply to this host.
        RunbookError: what matters of it cannot be read.
    """
    root: Path | None = arguments.root
    capture: Path | None = arguments.capture
    if capture is not None and root is not None:
        raise InputError("--capture reads this host and --root a captured tree; use one of them")
    if root is not None and not root.is_dir():
        raise InputError(f"{root} is not a folder; name the folder that holds proc/ and sys/")
    if root is not None and arguments.pid is not None:
        raise InputError("--root reads a captured tree and --pid a running process; use one of them")
    pid = arguments.pid if arguments.pid is not None or root else judged_pid()
    if pid is not None and not Path(f"/proc/{pid}").is_dir():
        raise InputError(f"there is no process {pid}; ps -e lists the running ones")
    if root is not None and not any((root / name).is_dir() for name in ("proc", "sys", "dev")):
        # A wrong path must not read as a host without the devices in question.
        raise InputError(f"{root} has neither proc/ nor sys/; name the folder that holds them")
    group: HostGroup[Any] = importlib.import_module(f"runner.node.host.{arguments.group}").GROUP
    tree = HostTree(root, pid) if capture is None else CapturingTree(capture, pid)
    judged = _judged(group, tree, arguments.watch)
    if isinstance(tree, CapturingTree):
        say(f"captured {tree.finish()} files into {capture}; read them with --root {capture}")
    source = "host" if root is None else CAPTURED
    if root is not None:
        # Numbers of another host, or of a drill, are not published as those of this one.
        judged = replace(judged, numbers=())
    of = "this shell" if pid is None else "a running process"
    return node_findings(
        judged,
        {"group": arguments.group, "of": of, "watch_s": arguments.watch},
        {"source": source},
        group=arguments.group,
        source=source,
    )


def _judged(group: HostGroup[Any], tree: HostTree, seconds: float) -> NodeVerdict:
    if seconds < 0:
        raise InputError("--watch must be zero or more")
    if not seconds:
        return group.judge(group.read(tree))
    if tree.root is not None:
        raise InputError("--watch reads again later, and the captured tree of --root does not change")
    if group.judge_change is None:
        raise InputError(f"nothing of --group {group.name} is judged by its change; omit --watch")
    began = time.monotonic()
    first = HostReading(0.0, group.read(tree))
    # Counters are totals: the last reading has what happened in between.
    time.sleep(seconds)
    last = HostReading(time.monotonic() - began, group.read(HostTree(None, tree.pid)))
    return group.judge_change([first, last])
