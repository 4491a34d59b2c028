"""What Slurm's commands print, read: real output as fixtures, and whatever else may stand there."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.fleet.text import (
    LIVE,
    parse_fields,
    parse_job_end,
    parse_nodes,
    parse_partitions,
    parse_queue,
)

JOB = (
    "JobId={id} JobName=wrap UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901755 Nice=0 Account=(null) "
    "QOS=(null) JobState={state} Reason={reason} Dependency=(null) Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 "
    "ExitCode={exit} RunTime=00:00:26 TimeLimit={limit} TimeMin=N/A SubmitTime=2026-11-25T01:32:46 Partition=main "
    "AllocNode:Sid=localhost:3096 ReqNodeList=n3 ExcNodeList=(null) NodeList=n3 BatchHost=n3 NumNodes=1 NumCPUs=1 "
    "NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=1,node=1,billing=1 Features=(null) Command=(null) "
    "WorkDir=/a folder with State=odd names StdErr=/dev/null StdIn=/dev/null StdOut=/dev/null Power= \n"
)
NODE = (
    "NodeName={name} Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=1 CPUTot=1 CPULoad=1.25 Gres=(null) "
    "NodeAddr=10.0.0.7 NodeHostName=localhost Port=40809 Version=22.05.8 OS=Linux 6.18.44 #1 SMP PREEMPT_DYNAMIC @0  "
    "RealMemory=1 AllocMem=0 FreeMem=16946 Sockets=1 Boards=1 State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 "
    "Owner=N/A MCS_label=N/A Partitions=main  BootTime=2026-11-25T01:10:07 CfgTRES=cpu=1,mem=1M,billing=1 AllocTRES= "
    "CapWatts=n/a CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s{reason}\n"
)


def a_job(state: str, reason: str = "None", exit_code: str = "0:0", limit: str = "UNLIMITED") -> str:
    return JOB.format(id=5, state=state, reason=reason, exit=exit_code, limit=limit)


def a_node(name: str, state: str, reason: str = "") -> str:
    return NODE.format(name=name, state=state, reason=f" Reason={reason}" if reason else "")


@pytest.mark.parametrize(
    ("text", "state", "exit_status", "number"),
    [
        (a_job("NODE_FAIL", "NodeDown"), "NODE_FAIL", 0, 0),
        (a_job("TIMEOUT", "TimeLimit", "0:15", "00:01:00"), "TIMEOUT", 0, 15),
        (a_job("FAILED", "NonZeroExitCode", "71:0"), "FAILED", 71, 0),
        (a_job("CANCELLED", "None", "0:15"), "CANCELLED", 0, 15),
        (a_job("COMPLETED", exit_code="nonsense"), "COMPLETED", 0, 0),
    ],
)
def test_each_way_that_a_job_ends_is_told_from_the_others(
    text: str, state: str, exit_status: int, number: int
) -> None:
    end = parse_job_end(text)
    assert end
    assert (end.state, end.exit_status, end.signal) == (state, exit_status, number)


@pytest.mark.parametrize(
    "text", ["", "\n", "No jobs in the system\n", "slurm_load_jobs error: Invalid job id"]
)
def test_a_text_that_tells_of_no_job_is_none(text: str) -> None:
    assert parse_job_end(text) is None


def test_values_may_hold_spaces_and_equals_signs() -> None:
    fields = parse_fields(a_job("RUNNING"))
    assert fields["TRES"] == "cpu=1,node=1,billing=1"
    assert fields["ReqB:S:C:T"] == "0:0:*:*"
    assert fields["JobState"] == "RUNNING"
    assert fields["Power"] == ""


@pytest.mark.parametrize(
    ("state", "fit", "idle"),
    [
        ("IDLE", True, True),
        ("IDLE+CLOUD", True, True),
        ("MIXED", True, False),
        ("ALLOCATED", True, False),
        ("IDLE+DRAIN", False, False),
        ("MIXED+DRAIN", False, False),
        ("DOWN", False, False),
        ("DOWN*+DRAIN", False, False),
        # Slurm decides by itself whether these come back, or are down.
        ("IDLE+NOT_RESPONDING", True, False),
        ("IDLE*", True, False),
        ("IDLE~", True, False),
        ("UNKNOWN", True, False),
        # Power saving starts these for the job that asks for them.
        ("IDLE+POWERED_DOWN", True, False),
        ("IDLE+CLOUD+POWERED_DOWN", True, False),
        ("IDLE+CLOUD+POWERING_UP", True, False),
        ("DOWN+POWERED_DOWN", False, False),
        ("IDLE+PLANNED", True, True),
        ("FUTURE", False, False),
        ("DOWN+NOT_RESPONDING", False, False),
        ("ALLOCATED+MAINTENANCE", False, False),
        ("FAILING", False, False),
    ],
)
def test_a_node_is_fit_where_a_job_would_start_some_time(state: str, fit: bool, idle: bool) -> None:
    (node,) = parse_nodes(a_node("n3", state))
    assert (node.name, node.fit, node.idle) == ("n3", fit, idle)
    assert node.reason is None


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("Not responding [root@2026-11-25T01:31:39]", "Not responding"),
        ("bad link; see Ticket=5 State=odd [slurm@2026-11-25T01:31:39]", "bad link; see Ticket=5 State=odd"),
        ("fan [left] [ops@2026-11-25T01:31:39] Comment=asked for", "fan [left]"),
        ("unsigned", "unsigned"),
    ],
)
def test_a_reason_is_free_text_up_to_who_noted_it(printed: str, reason: str) -> None:
    (node,) = parse_nodes(a_node("n3", "IDLE+DRAIN", printed))
    assert (node.state, node.reason) == ("IDLE+DRAIN", reason)


def test_the_queue_is_read_by_job_and_odd_lines_are_left_out() -> None:
    queue = parse_queue(
        "1|RUNNING|None|1-a\n2|PENDING|(Nodes required | are DOWN)|(null)\n3|NODE_FAIL|NodeDown|\nodd|x\n\n"
    )
    assert {job_id: job.live for job_id, job in queue.items()} == {"1": True, "2": True, "3": False}
    assert [job.tag for job in queue.values()] == ["1-a", "(null)", ""]
    assert queue["2"].reason == "(Nodes required | are DOWN)"


def test_a_job_whose_comment_was_changed_to_two_lines_is_still_in_the_queue() -> None:
    # As squeue 22.05 prints it.
    queue = parse_queue("3|RUNNING|None|li\nne|two|more|fields\n4|PENDING|Resources|1-x\n")
    assert [(job.job_id, job.state) for job in queue.values()] == [("3", "RUNNING"), ("4", "PENDING")]


def test_partitions_name_their_nodes_once_and_the_default_is_marked() -> None:
    text = "main*|n1\nmain*|n2\nbig|n2\nmain*|n1\n"
    assert parse_partitions(text) == ({"main": ("n1", "n2"), "big": ("n2",)}, "main")
    assert parse_partitions("big|n2\n") == ({"big": ("n2",)}, None)


@given(st.text(alphabet=string.printable + "äß\x00|=[]@", max_size=300))
def test_no_output_whatever_makes_a_parser_fail(text: str) -> None:
    parse_fields(text)
    parse_queue(text)
    parse_job_end(text)
    parse_nodes(text)
    parse_partitions(text)


@given(st.text(alphabet=string.ascii_letters + string.digits + " =;,.()", min_size=1, max_size=60))
def test_every_reason_comes_back_as_it_was_noted(reason: str) -> None:
    (node,) = parse_nodes(a_node("n1", "DOWN", f"{reason} [root@2026-11-25T01:31:39]"))
    assert node.reason == (reason.strip() or None)


def test_states_of_live_jobs_are_slurms_own_names() -> None:
    assert {"PENDING", "RUNNING", "COMPLETING"} <= LIVE
    assert not LIVE & {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
