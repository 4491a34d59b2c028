"""What a stack says, and how an answer reads."""

from collections.abc import Mapping

import pytest

from runner.hang.activity import Doing, activity_of, place_of
from runner.hang.findings import HangKind, HangVerdict
from runner.hang.model import (
    CallState,
    CollectiveCall,
    Frame,
    GpuLoad,
    ProcessState,
    RankLook,
    RasReport,
    Recording,
    Snapshot,
    Stack,
    Unseen,
    XidLine,
)
from runner.hang.verdict import judge_hang
from runner.hang.wording import ranks_named

SITE = "/opt/env/lib/python3.11/site-packages"
MAIN = Frame(function="main", file="/job/train.py", line=7)


def stack(*frames: tuple[str, str]) -> Stack:
    return (*(Frame(function=function, file=file, line=10) for function, file in frames), MAIN)


IN_ALL_REDUCE = stack(
    ("all_reduce", f"{SITE}/torch/distributed/distributed_c10d.py"),
    ("_exception_logger.<locals>.wrapper", f"{SITE}/torch/distributed/c10d_logger.py"),
)
LOADING = stack(
    ("wait", "/usr/lib/python3.11/threading.py"),
    ("get", "/usr/lib/python3.11/queue.py"),
    ("_BaseDataLoaderIter.__next__", f"{SITE}/torch/utils/data/dataloader.py"),
)
COMPUTING = stack(("forward", "/job/model.py"))


@pytest.mark.parametrize(
    ("frames", "doing", "place"),
    [
        (IN_ALL_REDUCE, Doing.COLLECTIVE, "main (train.py:7)"),
        (LOADING, Doing.LOADING, "main (train.py:7)"),
        (COMPUTING, Doing.ELSEWHERE, "forward (model.py:10)"),
        (
            stack(("init_process_group", "torch/distributed/distributed_c10d.py")),
            Doing.JOINING,
            "main (train.py:7)",
        ),
        (
            stack(("_create_c10d_store", f"{SITE}/torch/distributed/rendezvous.py")),
            Doing.JOINING,
            "main (train.py:7)",
        ),
        (
            stack(
                ("compile", f"{SITE}/torch/_inductor/codecache.py"),
                ("_fn", f"{SITE}/torch/_dynamo/eval_frame.py"),
            ),
            Doing.COMPILING,
            "main (train.py:7)",
        ),
        (stack(("_save", f"{SITE}/torch/serialization.py")), Doing.CHECKPOINTING, "main (train.py:7)"),
        (stack(("synchronize", f"{SITE}/torch/cuda/__init__.py")), Doing.GPU_WAIT, "main (train.py:7)"),
        (stack(("cudaStreamSynchronize", "libcudart.so.12")), Doing.GPU_WAIT, "main (train.py:7)"),
        (
            stack(("_engine_run_backward", f"{SITE}/torch/autograd/graph.py")),
            Doing.BACKWARD,
            "main (train.py:7)",
        ),
        # The wrapper of a compiled function is on the stack of every step.
        (
            stack(("forward", "/job/model.py"), ("_fn", f"{SITE}/torch/_dynamo/eval_frame.py")),
            Doing.ELSEWHERE,
            "",
        ),
        # A module that is imported does not load data yet.
        (
            stack(("<module>", f"{SITE}/torch/utils/data/dataloader.py")),
            Doing.ELSEWHERE,
            "",
        ),
        # A function of the program with the name of a collective is not one.
        (stack(("broadcast", "/job/news.py")), Doing.ELSEWHERE, "broadcast (news.py:10)"),
        # A checkpoint whose ranks meet is in a collective.
        (
            stack(
                ("all_gather_object", f"{SITE}/torch/distributed/distributed_c10d.py"),
                ("save", f"{SITE}/torch/distributed/checkpoint/state_dict_saver.py"),
            ),
            Doing.COLLECTIVE,
            "main (train.py:7)",
        ),
    ],
)
def test_the_innermost_function_that_is_known_says_what_a_rank_does(
    frames: Stack, doing: Doing, place: str
) -> None:
    found = activity_of(frames)
    assert found is not None
    assert found.doing is doing
    assert found.site is not None
    assert not place or place_of(found.site) == place


def test_an_empty_stack_says_nothing() -> None:
    assert activity_of(()) is None


def look(rank: int, **given: object) -> RankLook:
    values: Mapping[str, object] = {
        "node": f"node-{rank // 2}",
        "job": "10.0.0.1:29500",
        "rank": rank,
        "world_size": 4,
        "pid": 100 + rank,
        "state": ProcessState.SLEEPING,
        **given,
    }
    return RankLook.model_validate(values)


def waiting(rank: int) -> RankLook:
    return look(rank, stacks=(IN_ALL_REDUCE,) * 3, still=True)


def recorded(*calls: tuple[str, int, CallState]) -> Recording:
    made = (
        CollectiveCall(group="0", seq=seq, op=op, backend="nccl", state=state) for op, seq, state in calls
    )
    return Recording(version="2.10", calls=tuple(made))


def answer(*looks: RankLook, **given: object) -> HangVerdict:
    (verdict,) = judge_hang(Snapshot.model_validate({"seconds": 3.0, "ranks": looks, **given}))
    return verdict


def test_a_rank_that_loads_data_while_others_wait_is_named_with_its_place() -> None:
    verdict = answer(waiting(0), waiting(1), look(2, stacks=(LOADING,) * 3, still=True), waiting(3))
    assert verdict.sentence == (
        "rank 2 (node-1, pid 102) has not entered all_reduce, in which 3 ranks wait; "
        "it is loading data, main (train.py:7): CPU side"
    )
    assert (verdict.kind, verdict.certain, verdict.side) == (HangKind.LATE, True, "CPU")
    assert [row.does for row in verdict.rows][:2] == [
        "loading data: main (train.py:7)",
        "waits in all_reduce, main (train.py:7)",
    ]


def test_a_stopped_rank_is_named_although_nothing_else_of_it_can_be_read() -> None:
    verdict = answer(waiting(0), look(1, state=ProcessState.STOPPED), waiting(2), waiting(3))
    assert verdict.sentence == "rank 1 (node-0, pid 101) is stopped, and 3 ranks wait in all_reduce"


def test_a_rank_that_has_ended_is_named() -> None:
    verdict = answer(waiting(0), look(1, pid=None, state=ProcessState.GONE), waiting(2), waiting(3))
    assert verdict.sentence == (
        "rank 1 (node-0) has ended, and 3 ranks wait in all_reduce; read the end of its log"
    )


def test_where_all_ranks_that_were_seen_wait_the_others_are_named() -> None:
    verdict = answer(waiting(0), waiting(1))
    assert (verdict.kind, verdict.certain, verdict.culprits) == (HangKind.UNKNOWN, False, ())
    assert verdict.sentence == (
        "2 ranks were seen, and all wait in all_reduce; look at ranks 2, 3, which were not seen"
    )


def test_a_collective_that_all_ranks_are_in_points_to_devices_and_tells_xids() -> None:
    calls = recorded(("all_reduce", 8, CallState.COMPLETED), ("all_reduce", 9, CallState.STARTED))
    xid = XidLine(node="node-1", code=79, line="NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.")
    ranks = [look(rank, before=calls, recording=calls) for rank in range(4)]
    verdict = answer(*ranks, xids=(xid,))
    assert (verdict.kind, verdict.side) == (HangKind.SAME_PLACE, "GPU or network")
    assert verdict.sentence == (
        "all 4 ranks wait in all_reduce #9 of group 0 and none makes progress: a GPU, a link or the network; "
        "Xid 79 on node-1"
    )


def test_a_gpu_that_has_not_begun_what_the_others_are_in_is_named() -> None:
    in_it, before_it = (
        recorded(("all_reduce", 8, CallState.COMPLETED), ("all_reduce", 9, state))
        for state in (CallState.STARTED, CallState.SCHEDULED)
    )
    ranks = [
        look(rank, before=(calls := before_it if rank == 3 else in_it), recording=calls) for rank in range(4)
    ]
    verdict = answer(*ranks)
    assert (verdict.kind, verdict.culprits) == (HangKind.NOT_STARTED, (3,))


def test_ranks_that_nccl_cannot_reach_are_the_most_likely_ones() -> None:
    calls = recorded(("all_reduce", 9, CallState.STARTED))
    ras = RasReport(version="2.28.9", healthy=False, silent_ranks=(2,))
    verdict = answer(*(look(rank, before=calls, recording=calls) for rank in range(4)), ras=ras)
    assert (verdict.culprits, verdict.certain) == ((2,), False)
    assert verdict.sentence.startswith("most likely: ")


def test_counts_of_nccl_name_the_most_likely_rank_where_ranks_wait_for_their_gpus() -> None:
    waits = stack(("synchronize", f"{SITE}/torch/cuda/__init__.py"))
    ranks = [look(rank, stacks=(waits,) * 3, still=False, gpu=GpuLoad(index=rank)) for rank in range(4)]
    ras = RasReport(version="2.28.9", healthy=False, behind_ranks=(1,), world=4, pids=(100, 101, 102, 103))
    verdict = answer(*ranks, ras=ras)
    assert (verdict.kind, verdict.culprits, verdict.certain) == (HangKind.LATE, (1,), False)


@pytest.mark.parametrize("other", [{"world": 8}, {"pids": (7, 8)}])
def test_the_answer_of_another_job_on_the_port_of_ras_is_not_used(other: Mapping[str, object]) -> None:
    ranks = [look(rank, stacks=(COMPUTING,) * 3, gpu=GpuLoad(index=rank)) for rank in range(4)]
    ras = RasReport.model_validate({"version": "2.28.9", "healthy": False, "behind_ranks": (1,), **other})
    assert answer(*ranks, ras=ras).culprits == ()


def test_a_line_of_the_program_on_a_gpu_may_wait_for_it() -> None:
    """`loss.item()` blocks in CUDA, which no Python frame shows."""
    item = look(1, stacks=(COMPUTING,) * 3, still=False, gpu=GpuLoad(index=1))
    verdict = answer(waiting(0), item, waiting(2), waiting(3))
    assert verdict.kind is HangKind.UNKNOWN


def test_healthy_ranks_that_compute_are_not_a_hang() -> None:
    verdict = answer(*(look(rank, stacks=(COMPUTING,) * 3, still=False) for rank in range(4)))
    assert (verdict.kind, verdict.culprits) == (HangKind.UNKNOWN, ())
    assert verdict.sentence == "no rank was seen waiting for another: 4 in the program"


def test_healthy_ranks_without_a_recorder_move_by_their_stacks() -> None:
    moving = ((COMPUTING, IN_ALL_REDUCE, COMPUTING), (IN_ALL_REDUCE, COMPUTING, COMPUTING))
    verdict = answer(*(look(rank, stacks=moving[rank % 2], still=False) for rank in range(4)))
    assert (verdict.kind, verdict.entry) == (HangKind.MOVING, "straggler-rank")
    assert verdict.sentence == "the job went on within 3 s: no hang"


def test_ranks_that_all_compile_lead_to_the_entry_about_compiling() -> None:
    frames = stack(("compile_fx", f"{SITE}/torch/_inductor/compile_fx.py"))
    verdict = answer(*(look(rank, stacks=(frames,) * 3, still=False) for rank in range(4)))
    assert verdict.entry == "torch-compile-hang"


def test_ranks_that_join_name_the_one_that_does_not() -> None:
    joins = stack(("init_process_group", f"{SITE}/torch/distributed/distributed_c10d.py"))
    there = [look(rank, stacks=(joins,) * 3, still=True) for rank in (0, 1, 3)]
    verdict = answer(*there, look(2, stacks=(LOADING,) * 3, still=True))
    assert (verdict.kind, verdict.culprits, verdict.entry) == (HangKind.JOINING, (2,), "rendezvous-failure")
    assert verdict.sentence == "3 of 4 ranks wait to join; rank 2 (node-1, pid 102) does not"
    assert answer(*there).sentence == "3 of 4 ranks wait to join; not seen: rank 2"


def test_what_was_not_seen_is_part_of_the_answer_and_told_once() -> None:
    missing = Unseen(source="stack", reason="py-spy is not installed")
    verdict = answer(*(look(rank, unseen=(missing,)) for rank in range(4)))
    assert verdict.kind is HangKind.UNKNOWN
    assert verdict.unseen == (missing,)


def test_jobs_on_one_node_are_judged_apart_and_the_one_that_hangs_comes_first() -> None:
    moving = [
        look(rank, job="a", stacks=(COMPUTING, IN_ALL_REDUCE, COMPUTING), still=False) for rank in range(4)
    ]
    hung = [waiting(0), waiting(1), look(2, state=ProcessState.STOPPED), waiting(3)]
    verdicts = judge_hang(Snapshot(seconds=3.0, ranks=(*moving, *hung)))
    assert [one.kind for one in verdicts] == [HangKind.STOPPED, HangKind.MOVING]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "rank 3"), ([1, 2], "ranks 1, 2"), ([0, 1, 2, 5, 7, 8, 9], "ranks 0-2, 5, 7-9")],
)
def test_ranks_are_named_in_spans(numbers: list[int], text: str) -> None:
    assert ranks_named(numbers) == text
