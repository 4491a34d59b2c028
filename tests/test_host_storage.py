"""`host_paths --group storage`: NFS requests that wait, full disks, blocked processes, and no false alarm."""

import json
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
from runner.node.host.group import HostReading
from runner.node.host.mountstats import NfsMount, RpcCount, parse_mountstats, telling_mountstats
from runner.node.host.storage import GROUP, judge_storage, judge_storage_change
from runner.node.host.storage_reading import BlockedTask, StorageFacts, StorageSpace, blocked_tasks
from runner.node.host.tree import HostTree
from runner.probes.host_paths import PROBE
from tests.host_trees import plant

ROOT = Path(__file__).parents[1]
GIB = 1 << 30


def nfs(place: str = "/mnt/ckpt", *, connections: int = 1, **operations: str) -> str:
    """One NFS mount of a mountstats file, as Linux 6 writes it."""
    xprt = "\txprt:\ttcp 0 0 2 0 12 900 899 1 70000 0 64 5000 6000\n"
    lines = "".join(f"\t{name:>12}: {counts}\n" for name, counts in operations.items())
    return (
        f"device store-7.example.org:/export/users/alice mounted on {place} with fstype nfs4 statvers=1.1\n"
        "\topts:\trw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,nconnect=4,timeo=600,retrans=2,"
        "sec=sys,clientaddr=192.0.2.17,local_lock=none\n"
        "\tage:\t95030\n"
        "\tevents:\t35 259 2 1005 9 7 511 256000 0 66 0 26 18 2 6 4 0 3 0 0 256000 0 0 0 0 0 0\n"
        "\tbytes:\t1048576000 1048576000 0 1048576000 1048576000 2097152000 256000 256000\n"
        "\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)\n"
        f"{xprt * connections}\tper-op statistics\n\t        NULL: 1 1 0 44 24 0 0 0 0\n{lines}\n"
    )


DISK = "device /dev/nvme0n1p2 mounted on / with fstype ext4\n"


def reading(text: str, at_s: float = 0.0, **more: object) -> HostReading[StorageFacts]:
    return HostReading(at_s, replace(StorageFacts(nfs=parse_mountstats(text)), **more))  # type: ignore[arg-type]


def changed(before: str, after: str, seconds: float) -> NodeVerdict:
    verdict = judge_storage_change([reading(before), reading(after, seconds)])
    assert all(one.next and one.source and one.where for one in verdict.findings)
    return verdict


def kinds(verdict: NodeVerdict) -> dict[str, Action]:
    return {one.kind: one.action for one in verdict.findings}


def numbers(verdict: NodeVerdict) -> Mapping[tuple[str, str], float]:
    return {(one.metric, str(dict(one.labels).get("op", ""))): one.value for one in verdict.numbers}


IDLE = nfs(WRITE="100 100 0 1000 1000 10 400 450 0", GETATTR="500 500 0 1000 1000 5 300 320 0")


def test_counts_are_read_by_operation_with_options_and_connections() -> None:
    (mount,) = parse_mountstats(DISK + nfs(connections=4, WRITE="2000 2001 3 70 80 5178088 48850 5230077 0"))
    assert (mount.place, mount.connections, mount.slots) == ("/mnt/ckpt", 4, 64)
    assert (mount.options["nconnect"], mount.options["hard"], "clientaddr" in mount.options) == (
        "4",
        "",
        False,
    )
    write = mount.operations["WRITE"]
    assert (write.requests, write.timeouts, write.sent) == (2000, 3, 70)
    assert write.queue_share == pytest.approx(5178088 / 5230077)
    assert write.response_s == pytest.approx(0.024425)
    # Version 1.0 has no count of errors.
    assert parse_mountstats(nfs(WRITE="1 1 0 2 3 4 5 9"))[0].operations["WRITE"].total_ms == 9


def test_a_healthy_node_has_no_finding(tmp_path: Path) -> None:
    tree = HostTree(
        plant(
            tmp_path,
            {
                "proc/self/mountstats": DISK + IDLE,
                "proc/sys/sunrpc/tcp_max_slot_table_entries": "65536",
                "proc/meminfo": "MemAvailable:   64000000 kB\nDirty:     1000 kB\nWriteback:    0 kB",
                "proc/sys/vm/dirty_ratio": "20",
            },
        )
    )
    verdict = GROUP.judge(GROUP.read(tree))
    assert (verdict.findings, verdict.not_read) == ((), ())
    assert numbers(verdict)[("rpc_response_time", "GETATTR")] == pytest.approx(0.0006)
    assert verdict.settings["NFS options"].startswith("vers=4.2,")


def test_a_node_without_nfs_is_fine_and_one_without_mountstats_is_unknown(tmp_path: Path) -> None:
    fine = GROUP.judge(GROUP.read(HostTree(plant(tmp_path / "a", {"proc/self/mountstats": DISK}))))
    assert (fine.findings, fine.not_read) == ((), ())
    (tmp_path / "b/proc").mkdir(parents=True)
    unknown = GROUP.judge(GROUP.read(HostTree(tmp_path / "b")))
    assert unknown.findings == ()
    assert [one.matters for one in unknown.not_read] == [True]


def test_an_idle_mount_and_a_short_burst_are_no_fault() -> None:
    assert kinds(changed(IDLE, IDLE, 60)) == {}
    # A save of a gibibyte: all its requests wait for those before them.
    burst = nfs(
        WRITE="1124 1124 0 1000 1000 5178098 49250 5230527 0", GETATTR="500 500 0 1000 1000 5 300 320 0"
    )
    verdict = changed(IDLE, burst, 60)
    assert verdict.faults == ()
    assert kinds(verdict) == {"nfs-queue": Action.KEEP}
    assert "usual within a save" in verdict.findings[0].next
    assert numbers(verdict)[("rpc_queue_share", "WRITE")] > 0.9


def test_requests_that_wait_in_the_client_for_a_quarter_of_an_hour_are_a_fault() -> None:
    after = nfs(WRITE="90100 90100 0 1000 1000 93000010 4000400 100000450 0")
    verdict = changed(IDLE, after, 900)
    assert kinds(verdict) == {"nfs-queue": Action.RESTART}
    (fault,) = verdict.faults
    assert "wait in this client for 93% of their time" in fault.found
    assert "answers in 44.4 ms" in fault.found
    assert "nconnect" in fault.next
    assert any("most requests at once 64" in one for one in fault.evidence)


def test_a_few_requests_that_wait_are_not_judged_by_their_share() -> None:
    assert kinds(changed(IDLE, nfs(WRITE="150 150 0 1 1 50010 4400 54000 0"), 900)) == {}


def test_a_server_that_answers_slowly_for_ten_minutes_is_a_fault() -> None:
    slow = nfs(WRITE="100 100 0 1000 1000 10 400 450 0", GETATTR="1100 1100 0 1000 1000 5 120300 120320 0")
    assert kinds(changed(IDLE, slow, 600)) == {"nfs-slow": Action.RESTART}
    assert kinds(changed(IDLE, slow, 60)) == {"nfs-slow": Action.KEEP}
    assert "GETATTR in 200 ms" in changed(IDLE, slow, 600).faults[0].found


def test_requests_without_an_answer_are_a_fault_at_once() -> None:
    verdict = changed(IDLE, nfs(WRITE="101 140 5 1000 1000 10 900 950 0"), 10)
    assert kinds(verdict)["nfs-timeouts"] is Action.RESTART
    assert "5 requests got no answer" in verdict.faults[0].found
    # Those of last week are not news.
    old = nfs(WRITE="101 140 5 1000 1000 10 900 950 0")
    assert changed(old, old, 10).findings == ()
    assert judge_storage(reading(old).facts).findings == ()


def test_a_mount_that_is_new_or_gone_is_not_judged_by_its_change() -> None:
    other = nfs("/mnt/other", WRITE="90100 90100 9 1000 1000 93000010 4000400 100000450 0")
    assert changed(IDLE, other, 900).findings == ()
    assert changed(other, IDLE, 900).findings == ()


def test_a_full_file_system_is_a_fault_where_the_process_works() -> None:
    full = StorageSpace("/mnt/ckpt", "xfs", 100 * GIB, 0, 1000, 900, used=True)
    assert kinds(judge_storage(StorageFacts(spaces=(full,)))) == {"no-bytes-left": Action.RESTART}
    # A volume of data may be full on purpose.
    assert kinds(judge_storage(StorageFacts(spaces=(replace(full, used=False),)))) == {
        "no-bytes-left": Action.KEEP
    }
    inodes = replace(full, free=50 * GIB, inodes_free=0)
    assert kinds(judge_storage(StorageFacts(spaces=(inodes,)))) == {"no-inodes-left": Action.RESTART}
    little = replace(full, free=4 * GIB)
    assert kinds(judge_storage(StorageFacts(spaces=(little,)))) == {"few-bytes-left": Action.KEEP}
    healthy = (replace(full, free=50 * GIB), replace(full, free=50 * GIB, inodes=0, inodes_free=0))
    assert judge_storage(StorageFacts(spaces=healthy)).findings == ()


def test_a_file_system_that_does_not_answer_is_a_fault() -> None:
    silent = StorageSpace("/mnt/ckpt", "nfs4", silent=True)
    assert kinds(judge_storage(StorageFacts(spaces=(silent,)))) == {"storage-silent": Action.RESTART}


def test_many_dirty_pages_are_a_note() -> None:
    facts = StorageFacts(dirty=19 * GIB, dirty_limit=20 * GIB)
    assert kinds(judge_storage(facts)) == {"writers-held": Action.KEEP}
    assert judge_storage(replace(facts, dirty=GIB)).findings == ()


SAVER = BlockedTask(4711, "pt_main_thread", "rpc_wait_bit_killable", 900)


def test_a_process_that_does_not_run_between_two_looks_is_a_fault() -> None:
    now = judge_storage(StorageFacts(blocked=(SAVER,)))
    assert kinds(now) == {"blocked-now": Action.KEEP}

    def after(task: BlockedTask, seconds: float) -> NodeVerdict:
        return judge_storage_change([reading("", blocked=(SAVER,)), reading("", seconds, blocked=(task,))])

    verdict = after(SAVER, 10)
    assert kinds(verdict) == {"blocked-long": Action.RESTART}
    assert "pt_main_thread (4711, rpc_wait_bit_killable)" in verdict.faults[0].found
    assert numbers(verdict)[("blocked_tasks", "")] == 1
    assert kinds(after(SAVER, 2)) == {"blocked-long": Action.KEEP}
    # It ran in between, as one that writes much does.
    busy = after(replace(SAVER, switches=901), 10)
    assert (busy.findings, numbers(busy)[("blocked_tasks", "")]) == ((), 0)


def test_blocked_processes_are_found_in_proc_and_kernel_threads_are_not(tmp_path: Path) -> None:
    def process(pid: int, name: str, state: str, flags: int) -> dict[str, str]:
        return {
            f"{pid}/stat": f"{pid} ({name}) {state} 1 1 1 0 -1 {flags} 0 0",
            f"{pid}/status": f"Name:\t{name}\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2",
            f"{pid}/wchan": "folio_wait_bit_common",
        }

    plant(
        tmp_path,
        process(17, "saver) D (x", "D", 0x400000)
        | process(18, "kworker/u8:2", "D", 0x208060)
        | process(19, "python3", "R", 0x400000)
        | {"20/stat": "cut", "version": "Linux"},
    )
    (found,) = blocked_tasks(tmp_path)
    assert found == BlockedTask(17, "saver) D (x", "folio_wait_bit_common", 9)


@given(st.text(max_size=300))
def test_any_text_is_parsed(text: str) -> None:
    assert isinstance(parse_mountstats(text), tuple)
    telling_mountstats(text)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=8))
def test_shares_are_shares(counts: list[int]) -> None:
    count = RpcCount(*counts)
    assert count.queue_share is None or 0 <= count.queue_share <= 1
    assert count - count == RpcCount()


def test_a_capture_keeps_the_counts_and_no_server_address_or_other_mount() -> None:
    text = DISK + IDLE
    told = telling_mountstats(text)
    assert parse_mountstats(told) == parse_mountstats(text)
    assert telling_mountstats(told) == told
    for private in ("example.org", "alice", "192.0.2.17", "nvme0n1p2"):
        assert private not in told


def test_a_capture_of_this_host_gives_its_verdict_again(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "runner.probes.host_paths", "--group", "storage"]
    captured = subprocess.run(
        [*words, "--capture", str(tmp_path / "tree")], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert captured.returncode in {0, 1}, captured.stderr
    again = subprocess.run(
        [*words, "--root", str(tmp_path / "tree")], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["effective"] == {"source": "captured"}
    assert not (tmp_path / "tree/proc/self/fd").exists()


def test_the_probe_judges_this_host_and_a_running_process() -> None:
    words = [
        sys.executable,
        "-m",
        "runner.probes.host_paths",
        "--group",
        "storage",
        "--pid",
        str(os.getpid()),
    ]
    done = subprocess.run([*words, "--watch", "0.1"], capture_output=True, text=True, check=False, cwd=ROOT)
    document = json.loads(done.stdout)
    names = {one["name"] for one in document["measurements"]}
    assert {"node_faults", "blocked_tasks"} <= names <= set(PROBE.emits)
    labels = {label for one in document["measurements"] for label in one["labels"]}
    assert labels <= set(PROBE.labels)


def test_numbers_of_all_mounts_are_summed() -> None:
    one = NfsMount("/a", {}, 1, None, {"WRITE": RpcCount(1, 1, 0, 0, 0, 90, 10, 100)})
    two = replace(one, place="/b", operations={"WRITE": RpcCount(1, 1, 0, 0, 0, 10, 90, 100)})
    assert numbers(judge_storage(StorageFacts(nfs=(one, two))))[("rpc_queue_share", "WRITE")] == 0.5
