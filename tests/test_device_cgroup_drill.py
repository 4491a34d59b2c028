"""A device that is taken from a running process by its control group: the fault itself, where the kernel has v1."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.device_cgroup_drill import offers_v1_devices, v1_devices_mount

MOUNTS = (
    "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
    "cgroup /sys/fs/cgroup/devices cgroup rw,nosuid,devices 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
)
CGROUPS = (
    "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\ndevices\t{}\t1\t{}\npids\t8\t1\t1\n"
)


def drill(*arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.device_cgroup_drill", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def values(document: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(one["name"], one["labels"]["moment"]): one["value"] for one in document["measurements"]}


def test_a_running_process_loses_the_device_and_keeps_what_it_opened() -> None:
    status, document, said = drill()
    if status == 80:
        pytest.skip(document["reason"])
    assert (status, document["status"]) == (1, "symptom"), said
    assert values(document) == {
        ("device_opens", "denied"): 0,
        ("held_device_works", "denied"): 1,
        ("fault_named", "denied"): 1,
    }
    assert document["details"]["named"] == ["device-cgroup-denied"]


def test_a_new_process_in_a_new_group_has_the_device_again() -> None:
    status, document, said = drill("--recreated")
    if status == 80:
        pytest.skip(document["reason"])
    assert (status, values(document)["device_opens", "recreated"]) == (0, 1), said


def test_nothing_is_left_behind() -> None:
    mounted = v1_devices_mount(Path("/proc/self/mounts").read_text(encoding="utf-8"))
    if mounted is None or os.geteuid() != 0:
        pytest.skip("no devices controller of cgroup v1 is mounted here, or not root")
    words = [sys.executable, "-m", "runner.probes.device_cgroup_drill", "--recreated"]
    with subprocess.Popen(words, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL) as process:
        process.wait()
    assert not (mounted / f"llm-runbooks-drill-{process.pid}").exists()


def test_the_mount_of_the_controller_is_found() -> None:
    assert v1_devices_mount(MOUNTS) == Path("/sys/fs/cgroup/devices")
    assert v1_devices_mount("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n") is None
    assert v1_devices_mount("cgroup /a\\040b cgroup rw,devices 0 0\n") == Path("/a b")


def test_a_kernel_that_offers_the_controller_is_told_from_one_that_does_not() -> None:
    assert offers_v1_devices(CGROUPS.format(0, 1))
    assert not offers_v1_devices(CGROUPS.format(0, 0))
    assert not offers_v1_devices("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\n")


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers(text: str) -> None:
    v1_devices_mount(text)
    offers_v1_devices(text)
