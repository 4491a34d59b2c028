"""What `device_cgroup_drill` does: takes a device from a running process by its control group."""

import argparse
import contextlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import RunbookError
from runner.base.programs import kill
from runner.base.time_limit import answer_within
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.node.gpu.driver_access import DeviceNode, DriverAccess
from runner.node.gpu.driver_host import DriverHost
from runner.node.gpu.group import NvmlFailure
from runner.node.gpu.nvml_failure import judge_nvml_failure
from runner.vocabulary.sources import DRILL

# The null device: every kernel has it, and nothing happens to it.
_MAJOR, _MINOR = 1, 3
_RULE = f"c {_MAJOR}:{_MINOR} rwm"
_ANSWER_S = 60.0
_EPERM = "EPERM"
# nvmlInit in a container whose devices were taken.
_UNKNOWN_ERROR = NvmlFailure(999, "Unknown Error")


@dataclass(frozen=True)
class _Sight:
    """What the process may do: why the node cannot be opened, and whether its old descriptor works."""

    refused: str | None
    held: bool


def cgroup_drill_findings(arguments: argparse.Namespace) -> Findings:
    """Take the device away; with `--recreated` start a new process in a new group after that.

    Raises:
        NotApplicableError: this kernel or this user cannot do it.
        RunbookError: the process did not answer.
    """
    if os.geteuid() != 0:
        raise NotApplicableError("a control group and a device node can only be made by root")
    with _devices_hierarchy() as hierarchy, tempfile.TemporaryDirectory() as folder:
        node = Path(folder) / "nvidiactl"
        try:
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(_MAJOR, _MINOR))
        except OSError as error:
            raise NotApplicableError(f"no device node can be made in {folder}: {error.strerror}") from error
        taken = _taken(hierarchy, Path(folder))
        after = _untouched(hierarchy, Path(folder)) if arguments.recreated else None
    return _findings(taken, after)


def v1_devices_mount(mounts: str) -> Path | None:
    """Where the hierarchy of the devices controller (cgroup v1) is mounted, from /proc/self/mounts; None if nowhere."""
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) > 3 and words[2] == "cgroup" and "devices" in words[3].split(","):  # noqa: PLR2004 - fstab(5)
            return Path(words[1].replace("\\040", " "))
    return None


def offers_v1_devices(cgroups: str) -> bool:
    """Whether the kernel has the devices controller of v1, from /proc/cgroups."""
    rows = (line.split() for line in cgroups.splitlines() if not line.startswith("#"))
    return any(row[0] == "devices" and row[-1] == "1" for row in rows if row)


@contextlib.contextmanager
def _devices_hierarchy() -> Iterator[Path]:
    mounted = v1_devices_mount(Path("/proc/self/mounts").read_text(encoding="utf-8"))
    if mounted is not None:
        yield mounted
        return
    try:
        offered = offers_v1_devices(Path("/proc/cgroups").read_text(encoding="utf-8"))
    except OSError:
        offered = False
    if not offered:
        raise NotApplicableError(
            "this kernel has no devices controller of cgroup v1; with v2 a device is taken by an eBPF program"
        )
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            ["mount", "-t", "cgroup", "-o", "devices", "llm-runbooks", place],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotApplicableError(f"the devices controller cannot be mounted: {done.stderr.strip()[:200]}")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=False)


@contextlib.contextmanager
def _group(hierarchy: Path) -> Iterator[Path]:
    group = hierarchy / f"llm-runbooks-drill-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise NotApplicableError(f"no control group can be made in {hierarchy}: {error.strerror}") from error
    try:
        yield group
    finally:
        group.rmdir()


@contextlib.contextmanager
def _process(group: Path, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    words = [sys.executable, "-m", "runner.kit.device_cgroup_child", str(folder)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        (group / "cgroup.procs").write_text(str(child.pid), encoding="ascii")
        yield child
    finally:
        kill(child)


def _look(child: "subprocess.Popen[str]") -> _Sight:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write("\n")
        child.stdin.flush()
        said: Any = json.loads(answer_within(_ANSWER_S, child.stdout.readline))
    except (OSError, ValueError) as error:
        raise RunbookError(f"the process of the drill did not answer: {error}") from error
    return _Sight(said["nodes"].get("nvidiactl"), said["held"])


def _taken(hierarchy: Path, folder: Path) -> _Sight:
    with _group(hierarchy) as group, _process(group, folder) as child:
        before = _look(child)
        if before.refused is not None or not before.held:
            raise NotApplicableError(
                f"the device cannot be opened here even before ({before.refused}): {folder} may be mounted with nodev"
            )
        (group / "devices.deny").write_text(_RULE, encoding="ascii")
        return _look(child)


def _untouched(hierarchy: Path, folder: Path) -> _Sight:
    with _group(hierarchy) as group, _process(group, folder) as child:
        return _look(child)


def _findings(taken: _Sight, after: _Sight | None) -> Findings:
    access = DriverAccess(host=DriverHost(), nodes=(DeviceNode("nvidiactl", taken.refused),))
    named = [one.kind for one in judge_nvml_failure(_UNKNOWN_ERROR, access).findings]
    right = taken.refused == _EPERM and named == ["device-cgroup-denied"]
    say(
        f"after devices.deny: open gives {taken.refused}, the old descriptor {'works' if taken.held else 'fails'}"
    )
    measurements = [
        single("device_opens", float(taken.refused is None), moment="denied"),
        single("held_device_works", float(taken.held), moment="denied"),
        single("fault_named", float(right), moment="denied"),
    ]
    if after is not None:
        say(f"in a new group: open gives {after.refused or 'no error'}")
        measurements.append(single("device_opens", float(after.refused is None), moment="recreated"))
    last = after or taken
    reason = None if last.refused is None else f"the control group denies the device ({last.refused})"
    return Findings(
        measurements=measurements,
        status="ok" if last.refused is None else "symptom",
        reason=reason,
        requested={"recreated": after is not None},
        effective={"source": DRILL, "device": f"{_MAJOR}:{_MINOR}", "controller": "cgroup v1 devices"},
        details={"named": named},
    )
