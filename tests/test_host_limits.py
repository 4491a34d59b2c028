"""`host_paths --group limits`: sound hosts and containers have no fault, small ones have theirs."""

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.node.findings import Action, NodeVerdict
from runner.node.host.cgroup_limits import cpu_quota
from runner.node.host.cgroups import folders_of, limit_of, parse_counters, parse_membership, shown_group
from runner.node.host.limits import GROUP
from runner.node.host.limits_reading import SharedMemory, Starter, locks_freely, parse_limits, starter_of
from runner.node.host.mounts import Mount, mount_at, parse_mounts, size_option, telling_mounts
from runner.node.host.shm_leftovers import ShmLeftovers, find_leftovers
from runner.node.host.tree import HostTree
from runner.probes.host_paths import PROBE
from tests.host_trees import CGROUP2, GIB, groups_2, host, limits, mountinfo, plant

DOCKER = "0::/"
POD = "/kubepods.slice/kubepods-podaa.slice/cri-containerd-bb.scope"
JOB = "/system.slice/slurmstepd.scope/job_71/step_0/user/task_0"


def judged(folder: Path, files: Mapping[str, str]) -> NodeVerdict:
    verdict = GROUP.judge(GROUP.read(HostTree(plant(folder, files))))
    assert all(one.next and one.source and one.where for one in verdict.findings)
    return verdict


def faults(verdict: NodeVerdict) -> set[str]:
    assert {one.action for one in verdict.faults} <= {Action.RESTART}
    return {one.kind for one in verdict.faults}


SOUND = {
    "desktop": host(memory=16 * GIB),
    "laptop-with-one-gpu": host(gpus=1, memory=32 * GIB),
    "virtual-machine": host(memory=4 * GIB, group="0::/system.slice/app.service"),
    "cloud-machine-with-a-mlx5-function": host(ports=1),
    "root-on-an-8-gpu-node": host(gpus=8, ports=8, root=True, memory=2048 * GIB),
    "8-gpu-node-well-set-up": host(gpus=8, ports=8, memory=2048 * GIB, text=limits(locked="unlimited")),
    "docker-with-flags": host(
        gpus=8,
        ports=8,
        group=DOCKER,
        shm=",size=16777216k",
        text=limits(524288, 524288, "unlimited"),
        more={"proc/self/x": ""} | groups_2("/", {"memory.max": str(512 * GIB)}),
    ),
    "docker-without-gpus": host(group=DOCKER, shm=",size=65536k"),
    "pod-without-gpus-on-a-gpu-node": host(
        group=f"0::{POD}",
        shm=",size=65536k",
        more={f"proc/driver/nvidia/gpus/0000:0{bus}:00.0/information": "" for bus in range(8)}
        | groups_2(POD, {"memory.max": str(4 * GIB), "cpu.max": "200000 100000"}),
    ),
    "slurm-job-well-set-up": host(
        gpus=8,
        ports=8,
        group=f"0::{JOB}",
        text=limits(131072, 131072, "unlimited"),
        more={"sys/fs/cgroup/system.slice/slurmstepd.scope/job_71/memory.max": str(1900 * GIB)},
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_host_or_container_has_no_fault(tmp_path: Path, name: str) -> None:
    verdict = judged(tmp_path, SOUND[name])
    assert faults(verdict) == set()
    assert not [one for one in verdict.not_read if one.matters]
    assert verdict.judged.startswith("/dev/shm, resource limits, memory and processes of its control groups")


def test_a_gpu_node_with_dockers_defaults_has_its_faults(tmp_path: Path) -> None:
    files = host(gpus=8, ports=8, group=DOCKER, shm=",size=65536k", more={".dockerenv": ""})
    verdict = judged(tmp_path, files)
    assert faults(verdict) == {"shared-memory-small", "locked-memory-limited"}
    told = {one.kind: str(one) for one in verdict.faults}
    assert "--shm-size=" in told["shared-memory-small"]
    assert "64.0 MiB" in told["shared-memory-small"]
    assert "--ulimit memlock=-1" in told["locked-memory-limited"]
    # NCCL raises the soft limit of 1,024 by itself.
    assert {one.kind for one in verdict.notes} == {"open-files-limited"}


def test_a_low_hard_limit_of_open_files_is_a_fault_with_gpus(tmp_path: Path) -> None:
    assert faults(judged(tmp_path, host(gpus=8, text=limits(1024, 4096)))) == {"open-files-limited"}


def test_a_pod_with_gpus_is_told_to_mount_a_memory_volume(tmp_path: Path) -> None:
    verdict = judged(tmp_path, host(gpus=2, group=f"0::{POD}", shm=",size=65536k"))
    (fault,) = verdict.faults
    assert "emptyDir" in fault.next


def test_one_gpu_with_a_small_shm_is_a_note_unless_loaders_run(tmp_path: Path) -> None:
    files = host(gpus=1, shm=",size=65536k")
    assert faults(judged(tmp_path / "none", files)) == set()
    workers = {"proc/self/task/self/children": "17 18", "proc/17/comm": "pt_data_worker", "proc/18/comm": "x"}
    verdict = judged(tmp_path / "some", files | workers)
    assert faults(verdict) == {"shared-memory-small"}
    assert "1 GPU and 1 DataLoader worker" in str(verdict.faults[0])


def test_a_kill_in_the_own_group_is_a_fault_of_this_container(tmp_path: Path) -> None:
    kill = {"memory.max": str(8 * GIB), "memory.events.local": "oom 3\noom_kill 2"}
    verdict = judged(tmp_path, host(group=f"0::{POD}", more=groups_2(POD, kill)))
    (fault,) = verdict.faults
    assert fault.kind == "killed-for-memory"
    assert (
        "killed 2 processes of it for memory since it was made, at a memory limit of 8.00 GiB" in fault.found
    )
    assert ("cgroup_memory_kills", 2) in {(one.metric, one.value) for one in verdict.numbers}


def test_a_kill_without_a_limit_means_that_the_node_was_full(tmp_path: Path) -> None:
    job = "/system.slice/train.service"
    more = groups_2(job, {"memory.events.local": "oom 0\noom_kill 1"})
    (fault,) = judged(tmp_path, host(group=f"0::{job}", more=more)).faults
    assert "the node had no memory left" in fault.found


def test_a_kill_in_another_group_below_the_same_slice_is_no_fault(tmp_path: Path) -> None:
    slice_ = "sys/fs/cgroup/user.slice"
    more = {
        f"{slice_}/memory.events": "oom 9\noom_kill 9",
        f"{slice_}/memory.events.local": "oom 0\noom_kill 0",
    }
    assert faults(judged(tmp_path, host(more=more))) == set()


def test_the_limit_of_the_slurm_job_above_is_found(tmp_path: Path) -> None:
    above = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_71"
    more = {f"{above}/memory.max": str(100 * GIB), f"{above}/memory.events.local": "oom 1\noom_kill 0"}
    (fault,) = judged(tmp_path, host(group=f"0::{JOB}", more=more)).faults
    assert fault.where == "job_71, 3 control groups above"
    assert "--mem" in fault.next


def test_an_old_kernel_without_local_events_is_named(tmp_path: Path) -> None:
    files = host(group=f"0::{POD}", more=groups_2(POD, {"memory.events": "oom_kill 1"}))
    del files[f"sys/fs/cgroup{POD}/memory.events.local"]
    (fault,) = judged(tmp_path, files).faults
    assert "groups below are counted too" in fault.found


def test_refused_threads_of_the_own_group_are_a_fault(tmp_path: Path) -> None:
    service = "/system.slice/serve.service"
    more = groups_2(service, {"pids.max": "4096", "pids.current": "4090", "pids.events": "max 7"})
    (fault,) = judged(tmp_path, host(group=f"0::{service}", more=more)).faults
    assert fault.kind == "processes-limited"
    assert "4090 of 4096" in fault.found
    assert "7 times" in fault.found
    assert "TasksMax=" in fault.next


VERSION_1 = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 31 0:30 {root} /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 31 0:31 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"""


def version_1(path: str, limit: object, kills: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory{path}/memory.limit_in_bytes": str(limit),
        f"sys/fs/cgroup/memory{path}/memory.usage_in_bytes": "1000",
        f"sys/fs/cgroup/memory{path}/memory.stat": "total_rss 900\ntotal_shmem 50",
        f"sys/fs/cgroup/memory{path}/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}",
        f"sys/fs/cgroup/pids{path}/pids.max": "max",
        f"sys/fs/cgroup/pids{path}/pids.current": "9",
        f"sys/fs/cgroup/cpu,cpuacct{path}/cpu.cfs_quota_us": "400000",
        f"sys/fs/cgroup/cpu,cpuacct{path}/cpu.cfs_period_us": "100000",
        f"sys/fs/cgroup/cpu,cpuacct{path}/cpu.stat": "nr_periods 100\nnr_throttled 40\nthrottled_time 5",
    }


@pytest.mark.parametrize("root", ["/", "/docker/0123456789abcdef"])
def test_version_1_is_read_on_the_node_and_in_a_container_that_sees_only_its_own_group(
    tmp_path: Path, root: str
) -> None:
    group = "/docker/0123456789abcdef"
    inside = "" if root == group else group
    files = host(
        group=f"9:memory:{group}\n8:pids:{group}\n7:cpu,cpuacct:{group}\n0::/",
        cgroups=VERSION_1.format(root=root),
        more=version_1(inside, 2 * GIB, 1),
    )
    verdict = judged(tmp_path, files)
    assert faults(verdict) == {"killed-for-memory"}
    assert verdict.facts["memory_limit"] == 2 * GIB
    assert verdict.facts["cpu_limit_cores"] == 4
    assert verdict.facts["groups_above_hidden"] is (root != "/")
    # 40 % of the periods were throttled; shared memory may outgrow the limit.
    assert {"cpu-throttled", "shared-memory-above-memory-limit"} == {one.kind for one in verdict.notes}


def test_the_largest_number_of_version_1_is_no_limit(tmp_path: Path) -> None:
    group = "9:memory:/\n8:pids:/"
    files = host(group=group, cgroups=VERSION_1.format(root="/"), more=version_1("", 9223372036854771712, 0))
    assert judged(tmp_path, files).facts["memory_limit"] is None


def test_a_container_says_that_groups_above_it_are_hidden_and_the_roots_own_processes_do_not(
    tmp_path: Path,
) -> None:
    inside = judged(tmp_path / "inside", host(group=DOCKER))
    assert [one.what for one in inside.not_read] == ["control groups above this container's"]
    files = host(group=DOCKER)
    root = {"sys/fs/cgroup/cgroup.controllers": "cpu memory pids"}
    files = {name: text for name, text in files.items() if not name.startswith("sys/fs/cgroup")} | root
    assert judged(tmp_path / "root", files).not_read == ()


def test_a_sandbox_without_these_files_is_unknown_and_not_fine(tmp_path: Path) -> None:
    files = host(gpus=2, group="0::/", cgroups="", shm="none")
    for name in ("proc/self/limits", "proc/sys/fs/file-nr"):
        del files[name]
    files = {name: text for name, text in files.items() if not name.startswith("sys/fs/cgroup")}
    verdict = judged(tmp_path, files)
    unknown = {one.what for one in verdict.not_read if one.matters}
    assert unknown == {
        "/dev/shm",
        "resource limits",
        "memory limit of the control group",
        "pids limit of the control group",
    }


def test_a_kernel_without_the_memory_controller_has_no_such_limit(tmp_path: Path) -> None:
    files = host(group="3:cpuset:/\n1:name=systemd:/init.scope", cgroups="")
    assert [one for one in judged(tmp_path, files).not_read if one.matters] == []


def test_a_tmpfs_without_a_size_has_half_of_the_memory(tmp_path: Path) -> None:
    shown = judged(tmp_path, host(memory=16 * GIB)).facts["shared_memory"]
    assert shown == {"bytes": 8 * GIB, "free": None, "source": "half of the memory, the kernel's default"}


def test_a_node_that_has_almost_all_files_open_has_a_fault(tmp_path: Path) -> None:
    more = {"proc/sys/fs/file-nr": "99000\t0\t100000"}
    (fault,) = judged(tmp_path, host(more=more)).faults
    assert (fault.kind, fault.where) == ("file-max-nearly-all", "node")


def test_a_process_that_has_almost_all_of_its_files_open_has_a_fault(tmp_path: Path) -> None:
    more = {f"proc/self/fd/{number}": "" for number in range(950)}
    verdict = judged(tmp_path, host(more=more))
    assert faults(verdict) == {"open-files-nearly-all"}
    assert ("open_files_share", 950 / 1024) in {(one.metric, one.value) for one in verdict.numbers}


def test_links_of_a_captured_tree_do_not_leave_it(tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", {"secret": "x"})
    tree = plant(tmp_path / "tree", host())
    (tree / "sys/class").mkdir(exist_ok=True)
    (tree / "sys/class/infiniband").symlink_to(outside)
    (tree / "up").symlink_to("../../../../../..")
    read = HostTree(tree)
    assert read.names("/sys/class/infiniband") == ()
    assert not read.exists("/sys/class/infiniband/secret")
    assert "proc" in read.names("/up")
    assert read.link("/up") == "../../../../../.."


def test_identifiers_of_containers_are_not_shown() -> None:
    folder = "/sys/fs/cgroup/kubepods-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice"
    assert shown_group(folder, 1) == "the control group above it, kubepods-pod….slice"
    assert shown_group(f"/x/docker-{'ab' * 32}.scope", 2) == "docker-….scope, 2 control groups above"


def test_a_capability_in_a_user_namespace_does_not_lift_the_limit_of_locked_memory() -> None:
    status = "CapEff:\t000001ffffffffff"
    assert locks_freely(status, "0 0 4294967295")
    assert not locks_freely(status, "0 1000 1")
    assert not locks_freely("CapEff:\t00000000a80425fb", "0 0 4294967295")
    assert not locks_freely("", "")


@pytest.mark.parametrize(
    ("groups", "mounts", "there", "starter"),
    [
        ((POD,), "", "", Starter.KUBERNETES),
        (("/",), "/var/lib/kubelet/pods/x/etc-hosts /etc/hosts", "", Starter.KUBERNETES),
        (("/",), "/var/lib/docker/containers/x/hostname /etc/hostname", "", Starter.DOCKER),
        (("/",), "", "/.dockerenv", Starter.DOCKER),
        (("/machine.slice/libpod-x.scope",), "", "", Starter.PODMAN),
        ((JOB,), "", "", Starter.SLURM),
        (("/slurm/uid_1/job_2",), "", "", Starter.SLURM),
        (("/system.slice/serve.service",), "", "", Starter.SERVICE),
        (("/user.slice/user-0.slice",), "", "", Starter.UNKNOWN),
    ],
)
def test_what_started_a_process_is_known(
    groups: tuple[str, ...], mounts: str, there: str, starter: Starter
) -> None:
    assert starter_of(groups, mounts, lambda path: path == there, "") is starter


def test_leftovers_are_files_that_no_process_uses(tmp_path: Path) -> None:
    for name in ("nccl-AbCdEf", "torch_17_99_0", "mine"):
        (tmp_path / name).write_bytes(b"x" * 8192)
    found = find_leftovers(tmp_path)
    assert found is not None
    assert (found.count, found.bytes) == (2, 16384)
    with (tmp_path / "torch_17_99_0").open("rb"):
        still = find_leftovers(tmp_path)
    assert still is not None
    assert still.count == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_is_mapped_and_no_longer_open_has_an_owner(tmp_path: Path) -> None:
    place = tmp_path / "nccl-AbCdEf"
    place.write_bytes(b"x" * 4096)
    with place.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 4096)
    found = find_leftovers(tmp_path)
    mapped.close()
    assert found is not None
    assert found.count == 0


@pytest.mark.parametrize(
    ("size", "unseen", "action"),
    [
        (10 * GIB, None, Action.RESTART),
        (1 * GIB, None, Action.KEEP),
        (10 * GIB, "processes of other containers are not visible from here", Action.KEEP),
    ],
)
def test_leftovers_are_a_fault_only_if_they_fill_half_and_surely_have_no_owner(
    tmp_path: Path, size: int, unseen: str | None, action: Action
) -> None:
    facts = GROUP.read(HostTree(plant(tmp_path, host(shm=",size=16g"))))
    (finding,) = GROUP.judge(replace(facts, leftovers=ShmLeftovers(3, size, unseen))).findings
    assert (finding.kind, finding.action) == ("shared-memory-leftovers", action)
    assert "when no job runs here" in finding.next


def test_a_full_shm_is_a_fault_where_several_gpus_use_it(tmp_path: Path) -> None:
    full = SharedMemory(16 * GIB, GIB, "statvfs")
    for gpus, expected in ((0, set()), (8, {"shared-memory-full"})):
        facts = GROUP.read(HostTree(plant(tmp_path / str(gpus), host(gpus=gpus))))
        assert faults(GROUP.judge(replace(facts, shm=full))) == expected


def test_without_any_shm_several_gpus_have_a_fault(tmp_path: Path) -> None:
    facts = GROUP.read(HostTree(plant(tmp_path, host(gpus=8))))
    (fault,) = GROUP.judge(replace(facts, shm=None, shm_missing=True)).faults
    assert fault.found == "there is no /dev/shm, with 8 GPUs"


def test_this_shell_and_a_running_process_can_be_judged() -> None:
    for words in ([], ["--pid", str(os.getppid())]):
        done = subprocess.run(
            [sys.executable, "-m", "runner.probes.host_paths", "--group", "limits", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        # Another container's limits may be unknown, or too small.
        assert done.returncode in {0, 1, 3}, done.stderr
        if done.returncode != 3:
            document = json.loads(done.stdout)
            names = {one["name"] for one in document["measurements"]}
            assert {"node_faults", "shared_memory_size"} <= names


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    parse_mounts(text)
    parse_membership(text)
    parse_limits(text)
    parse_counters(text)
    limit_of(text)
    cpu_quota(text)
    locks_freely(text, text)
    size_option(Mount("/", "/dev/shm", "tmpfs", tuple(text.split(","))), 1 << 34)


@given(st.integers(0, 2**45), st.sampled_from("kmg"))
def test_a_size_option_is_read_in_its_unit(number: int, unit: str) -> None:
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[unit]
    text = mountinfo(f",size={number}{unit}", CGROUP2)
    mount = mount_at(parse_mounts(text), "/dev/shm")
    assert mount is not None
    assert size_option(mount, None) == number * factor


@given(
    st.lists(st.from_regex(r"[a-z0-9_.-]{1,12}", fullmatch=True).filter(lambda one: one != ".."), max_size=80)
)
def test_groups_are_listed_from_the_own_one_to_the_root(parts: list[str]) -> None:
    group = "/" + "/".join(parts)
    mounts = parse_mounts(CGROUP2)
    found = folders_of("memory", {"": group}, mounts, lambda _: True)
    assert found is not None
    assert found.folders[-1] == "/sys/fs/cgroup"
    assert len(found.folders) <= 65
    assert all(
        below.startswith(above + "/") for below, above in zip(found.folders, found.folders[1:], strict=False)
    )


def test_a_group_outside_of_the_readers_namespace_is_unknown() -> None:
    mounts = parse_mounts(CGROUP2)
    assert folders_of("memory", {"": "/../../system.slice"}, mounts, lambda _: True) is None


def test_the_mounts_of_a_capture_name_no_server_and_no_folder_of_a_user() -> None:
    text = (
        "1 0 0:9 / / rw - nfs4 filer.example:/root rw,addr=192.0.2.7\n"
        "2 1 0:9 / /home/alice rw - nfs4 filer.example:/home rw,addr=192.0.2.7\n"
        "3 1 0:23 / /dev/shm rw,relatime - tmpfs alice rw,size=65536k\n"
        "4 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "5 1 8:1 /var/lib/kubelet/pods/1/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw\nnot a mount\n"
    )
    told = telling_mounts(text)
    assert not any(word in told for word in ("filer", "alice", "192.0.2.7", "sda1"))
    assert [one.place for one in parse_mounts(told)] == [
        "/",
        "/dev/shm",
        "/sys/fs/cgroup/memory",
        "/etc/hosts",
    ]
    assert size_option(parse_mounts(told)[1], None) == 65536 << 10
    assert (telling_mounts(told), starter_of((), told, lambda _: False, "")) == (told, Starter.KUBERNETES)


@pytest.mark.parametrize("text", ["size=999999999999999999t", "size=999999999999999999%"])
def test_a_number_that_no_record_holds_is_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    most = 2**64 - 2
    files = host(gpus=2, shm=f",{text}", text=limits(most, most, str(most)))
    status = PROBE.main(["--group", "limits", "--root", str(plant(tmp_path, files))])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (status, document["details"]["facts"]["limits"]["Max open files"]) == (0, [str(most)] * 2)
