"""`host_paths --group cpu`: a process that lacks cores is told apart from one that is idle or well fed."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.node.findings import Action, NodeVerdict
from runner.node.host.cgroup_limits import CpuLevel
from runner.node.host.cpu import GROUP
from runner.node.host.cpu_reading import CpuFacts, parse_cpu_list, parse_schedstat, read_cpu
from runner.node.host.group import HostReading
from runner.node.host.limits import GROUP as LIMITS
from runner.node.host.storage import GROUP as STORAGE
from runner.node.host.tree import HostTree
from runner.probes.host_paths import PROBE
from tests.host_trees import groups_2, host, limits, plant

SECONDS, NS = 10.0, 10**9
POD = "/kubepods.slice/kubepods-podaa.slice/cri-containerd-bb.scope"
EIGHT = tuple(range(8))
V1 = (
    "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
)


def tree(
    allowed: str = "0-7", workers: int = 0, more: Mapping[str, str] | None = None, **options: object
) -> dict[str, str]:
    """A host of eight cores with a process 100, started by 50, and its loaders."""
    children = [str(200 + number) for number in range(workers)]
    files = {
        "proc/self/status": f"Name:\tpython3\nPid:\t100\nPPid:\t50\nThreads:\t12\nCpus_allowed_list:\t{allowed}\n",
        "proc/self/task/100/schedstat": "5000000000 1000000 400",
        "proc/self/task/101/schedstat": "70000000 2000000 40",
        "proc/self/task/100/children": " ".join(children),
        "proc/self/stat": "100 (python3 (x) y) S 50 1 1 0 -1 4194304 900 0 7 0 10 20",
        "sys/devices/system/cpu/online": "0-7",
        "sys/devices/system/node/node0/cpulist": "0-3",
        "sys/devices/system/node/node1/cpulist": "4-7",
        "proc/pressure/cpu": "some avg10=12.50 avg60=0.00 avg300=0.00 total=1",
    }
    for child in children:
        files[f"proc/{child}/comm"] = "pt_data_worker"
        files[f"proc/{child}/task/{child}/schedstat"] = "1000000000 3000000000 9"
    return host(more=files | dict(more or {}), **options)  # type: ignore[arg-type]


def read(folder: Path, files: Mapping[str, str]) -> CpuFacts:
    return read_cpu(HostTree(plant(folder, files)))


def grown(before: CpuFacts, **tasks: tuple[float, float]) -> CpuFacts:
    """The facts after ten seconds, from the seconds that each thread ran and waited in them."""
    times = {
        name: (before.tasks[name][0] + round(ran * NS), before.tasks[name][1] + round(waited * NS))
        for name, (ran, waited) in tasks.items()
    }
    return replace(before, tasks=dict(before.tasks) | times)


def facts(cores: int = 8, online: int = 8, **given_: object) -> CpuFacts:
    tasks = {"main": (0, 0), "thread": (NS, NS), "loader": (0, 5)}
    made = CpuFacts(allowed=tuple(range(cores)), online=tuple(range(online)), threads=3, tasks=tasks)
    return replace(made, **given_)  # type: ignore[arg-type]


def changed(first: CpuFacts, last: CpuFacts) -> NodeVerdict:
    assert GROUP.judge_change is not None
    verdict = GROUP.judge_change([HostReading(0.0, first), HostReading(SECONDS, last)])
    assert all(one.next and one.source and one.where for one in verdict.findings)
    return verdict


def kinds(verdict: NodeVerdict) -> set[str]:
    return {one.kind for one in verdict.faults}


def test_cores_loaders_nodes_and_waits_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, tree("0-1,6", workers=2))
    assert (found.allowed, found.online, found.nodes) == ((0, 1, 6), EIGHT, (0, 1))
    assert (found.threads, found.loaders, found.pressure) == (12, 2, 0.125)
    assert sum(waited for _, waited in found.tasks.values()) == 6_003_000_000
    assert found.major_faults["/proc/self"] == 7
    assert not found.not_read


@pytest.mark.parametrize("allowed", ["0-7", "3"])
def test_a_host_with_an_idle_process_has_no_finding(tmp_path: Path, allowed: str) -> None:
    found = read(tmp_path, tree(allowed))
    assert not GROUP.judge(found).findings
    assert not changed(found, found).findings


def test_a_process_without_its_list_of_cores_is_unknown(tmp_path: Path) -> None:
    verdict = GROUP.judge(read(tmp_path, host()))
    assert verdict.judged == ""
    assert [one.matters for one in verdict.not_read] == [True, False]


def test_siblings_with_the_same_name_and_a_common_core_are_counted(tmp_path: Path) -> None:
    siblings = {"proc/50/task/50/children": "100 110 120 130"}
    for pid, name, cores in ((110, "python3", "4-7"), (120, "python3", "7-15"), (130, "bash", "0-7")):
        siblings[f"proc/{pid}/status"] = f"Name:\t{name}\nPid:\t{pid}\nCpus_allowed_list:\t{cores}\n"
    assert read(tmp_path / "all", tree(more=siblings)).sharing == 3
    assert read(tmp_path / "apart", tree("0-3", more=siblings)).sharing == 1


def test_the_quota_of_a_group_above_is_read_in_version_2(tmp_path: Path) -> None:
    above = groups_2(
        "/kubepods.slice", {"cpu.max": "50000 100000", "cpu.stat": "nr_periods 40\nnr_throttled 30"}
    )
    found = read(tmp_path, tree(group=f"0::{POD}", more=groups_2(POD, {}) | above))
    (level,) = found.levels
    assert (level.cores, level.periods, level.throttled_periods) == (0.5, 40, 30)
    verdict = GROUP.judge(found)
    assert {(one.kind, one.action) for one in verdict.findings} == {("cpu-throttled", Action.KEEP)}
    assert "kubepods.slice, 2 control groups above" in verdict.findings[0].where


def test_the_quota_of_version_1_is_read(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/aa"
    group = {
        f"{folder}/cpu.cfs_quota_us": "400000",
        f"{folder}/cpu.cfs_period_us": "100000",
        f"{folder}/cpu.stat": "nr_periods 10\nnr_throttled 0\nthrottled_time 0",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    found = read(tmp_path, tree(group="4:cpu,cpuacct:/docker/aa", cgroups=V1, more=group))
    assert [(one.cores, one.throttled) for one in found.levels] == [(4.0, 0.0)]
    assert not GROUP.judge(found).findings


def test_a_process_that_is_throttled_now_is_a_fault_and_an_old_throttling_is_not() -> None:
    level = CpuLevel("this control group", 2.0, 0.5, 1000, 500)
    busy = facts(levels=(level,))
    now = CpuLevel("this control group", 2.0, 0.5, 1100, 540)
    assert kinds(changed(busy, grown(replace(busy, levels=(now,)), main=(9, 0)))) == {"cpu-throttled-now"}
    past = CpuLevel("this control group", 2.0, 0.45, 1100, 501)
    assert not changed(busy, grown(replace(busy, levels=(past,)), main=(9, 0))).findings


def test_an_idle_process_in_a_throttled_group_has_no_fault() -> None:
    idle = facts(levels=(CpuLevel("this control group", 2.0, 0.5, 1000, 500),))
    later = replace(idle, levels=(CpuLevel("this control group", 2.0, 0.5, 1100, 600),))
    assert not changed(idle, grown(later, main=(0.001, 0.2))).findings


@pytest.mark.parametrize(
    ("cores", "sharing", "times", "kind"),
    [
        (1, 1, {"main": (5, 5), "loader": (5, 5)}, "cores-too-few"),
        (8, 1, {"main": (50, 60), "loader": (5, 5)}, "threads-over-cores"),
        (8, 8, {"main": (6, 4)}, "ranks-share-cores"),
        (1, 1, {"main": (6, 4)}, "cores-shared"),
    ],
)
def test_a_process_whose_threads_lack_cores_is_told_why(
    cores: int, sharing: int, times: dict[str, tuple[float, float]], kind: str
) -> None:
    busy = facts(cores, sharing=sharing)
    verdict = changed(busy, grown(busy, **times))
    assert kinds(verdict) == {kind}
    assert {one.metric for one in verdict.numbers} == {"allowed_cores", "core_wait_share"}


def test_loaders_that_were_bound_to_one_core_lack_cores(tmp_path: Path) -> None:
    files = tree("0-7", workers=2)
    loaders = [name for name, text in files.items() if text.startswith("pt_data_worker")]
    bound = {name.replace("comm", "status"): "Cpus_allowed_list:\t0\n" for name in loaders}
    assert read(tmp_path, files | bound).loaders_allowed == (0,)
    busy = facts(8, loaders=2, loaders_allowed=(0,))
    verdict = changed(busy, grown(busy, main=(4, 0.1), loader=(5, 5)))
    assert kinds(verdict) == {"cores-too-few"}
    assert "may use 1 of 8" in verdict.faults[0].found


def test_a_well_fed_process_on_few_cores_has_no_finding() -> None:
    busy = facts(1)
    assert not changed(busy, grown(busy, main=(9.5, 0.2), loader=(0.3, 0.1))).findings


def test_a_thread_that_began_in_between_is_not_judged_by_its_total() -> None:
    busy = facts(1)
    assert not changed(busy, replace(busy, tasks=dict(busy.tasks) | {"new": (NS, 900 * NS)})).findings


def test_page_faults_are_a_note_and_files_at_their_limit_a_fault() -> None:
    busy = facts(major_faults={"a": 5})
    verdict = changed(busy, grown(replace(busy, major_faults={"a": 5000, "new": 9000}), main=(5, 0)))
    assert [(one.kind, one.action) for one in verdict.findings] == [("major-faults", Action.KEEP)]
    assert kinds(GROUP.judge(facts(open_files=1000, most_files=1024))) == {"open-files-nearly-all"}
    assert not GROUP.judge(facts(open_files=100, most_files=1024)).findings


@pytest.mark.parametrize(
    ("driver", "noted"), [("acpi-cpufreq", True), ("intel_pstate", False), ("amd-pstate-epp", False)]
)
def test_powersave_is_noted_only_where_it_means_the_lowest_frequency(
    tmp_path: Path, driver: str, noted: bool
) -> None:
    cpus = {f"sys/devices/system/cpu/cpu{one}/cpufreq/scaling_governor": "powersave" for one in EIGHT}
    cpus["sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"] = driver
    verdict = GROUP.judge(read(tmp_path, tree(more=cpus)))
    assert {one.kind for one in verdict.notes} == ({"governor-lowest"} if noted else set())
    assert not verdict.faults


def test_more_loaders_than_cores_are_a_note(tmp_path: Path) -> None:
    assert {one.kind for one in GROUP.judge(read(tmp_path, tree("0", workers=4))).notes} == {
        "loaders-over-cores"
    }


@given(st.text(max_size=60))
def test_any_text_for_a_list_of_cores_or_times_gives_numbers_or_nothing(text: str) -> None:
    assert all(0 <= one <= 99_999 for one in parse_cpu_list(text))
    times = parse_schedstat(text)
    assert times is None or min(times) >= 0


@given(st.sets(st.integers(0, 300), max_size=40))
def test_a_list_of_cores_reads_back(cores: set[int]) -> None:
    assert parse_cpu_list(",".join(map(str, sorted(cores)))) == tuple(sorted(cores))


def test_this_process_is_read_through_the_probe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert PROBE.main(["--group", "cpu", "--watch", "0.2"]) in {0, 1}
    plant(tmp_path, tree(text=limits()))
    assert PROBE.main(["--group", "cpu", "--root", str(tmp_path)]) == 0
    assert PROBE.main(["--group", "cpu", "--root", str(tmp_path), "--watch", "1"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_capture_of_a_process_with_children_gives_the_same_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True) as parent:
        try:
            where = str(tmp_path / "captured")
            statuses = [
                PROBE.main(["--group", "cpu", "--pid", str(parent.pid), "--capture", where]),
                PROBE.main(["--group", "cpu", "--root", where]),
            ]
            live, captured = map(json.loads, capsys.readouterr().out.splitlines())
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert statuses == [0, 0]
    assert live["details"]["findings"] == captured["details"]["findings"] == []
    assert live["details"]["facts"]["allowed"] == captured["details"]["facts"]["allowed"]


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1e999", "nan", "\0", "٣٤", "-1"])
def test_a_number_that_no_kernel_writes_is_no_number(tmp_path: Path, number: str) -> None:
    more = {
        "proc/self/stat": f"100 (x) S {f'{number} ' * 12}",
        "proc/self/status": f"Pid:\t100\nThreads:\t{number}\nCpus_allowed_list:\t0-7\n",
        "sys/fs/cgroup/cpu.max": f"{number} {number}",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": number,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "proc/sys/fs/file-nr": f"{number} 0 {number}",
        "proc/sys/vm/dirty_bytes": number,
        "proc/sys/vm/dirty_ratio": number,
    }
    for name, options in (("v2", {}), ("v1", {"group": "2:cpu,cpuacct:/", "cgroups": V1})):
        planted = plant(tmp_path / name, tree(more=more, **options))  # type: ignore[arg-type]
        tree_of_host = HostTree(planted)
        assert not GROUP.judge(GROUP.read(tree_of_host)).findings
        assert not LIMITS.judge(LIMITS.read(tree_of_host)).findings
        assert not STORAGE.judge(STORAGE.read(tree_of_host)).findings
