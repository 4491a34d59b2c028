"""Which rank is named for what was seen: jobs of every form, one of whose ranks is faulty."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.hang.dumps import read_dumps
from runner.hang.findings import HangKind
from runner.hang.model import Snapshot
from runner.hang.verdict import judge_hang
from tests.hang_simulation import Fault, Job, Line

KINDS = {
    "skip": {HangKind.SKIPPED},
    "op": {HangKind.OTHER_OP},
    "shape": {HangKind.OTHER_SIZE},
    "late": {HangKind.LATE},
    "stop": {HangKind.STOPPED},
    "gone": {HangKind.GONE},
}
OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
STEPS = 7


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    inner, outer = draw(st.sampled_from([(1, 3), (1, 4), (2, 2), (2, 4), (4, 2), (3, 3), (4, 4)]))
    world = inner * outer
    kinds = ["all", "outer"] + (["inner"] if inner > 1 else [])
    line = st.builds(Line, st.sampled_from(kinds), st.sampled_from(OPS), st.sampled_from([8, 16, 32]))
    program = draw(st.lists(line, min_size=2, max_size=6))
    fault = Fault(
        draw(st.sampled_from(sorted(KINDS))),
        draw(st.integers(0, world - 1)),
        draw(st.integers(3, STEPS - 2)),
        draw(st.integers(0, len(program) - 1)),
    )
    return Job(
        world, inner, program, fault, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 3))
    )


@settings(max_examples=150, deadline=None)
@given(jobs(), st.booleans(), st.booleans())
def test_no_wrong_rank_is_ever_named_as_certain(job: Job, recordings: bool, stacks: bool) -> None:
    job.run(STEPS)
    (verdict,) = judge_hang(job.snapshot(recordings=recordings, stacks=stacks))
    assert job.fault is not None
    if verdict.certain and verdict.kind is not HangKind.MOVING:
        assert verdict.culprits == (job.fault.rank,), verdict.sentence


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_with_recorder_and_stacks_the_faulty_rank_of_three_or_more_is_named(job: Job) -> None:
    assert job.fault is not None
    hangs = job.run(STEPS)
    (verdict,) = judge_hang(job.snapshot(recordings=True, stacks=True))
    if not hangs:
        return
    assert job.fault.rank in verdict.culprits, verdict.sentence
    assert len(verdict.culprits) == 1 or not verdict.certain


@settings(max_examples=150, deadline=None)
@given(jobs(), st.booleans(), st.booleans(), st.data())
def test_no_wrong_rank_is_named_as_certain_where_only_some_ranks_are_seen(
    job: Job, recordings: bool, stacks: bool, data: st.DataObject
) -> None:
    assert job.fault is not None
    job.run(STEPS)
    seen = data.draw(st.lists(st.integers(0, job.world - 1), unique=True))
    for verdict in judge_hang(job.snapshot(recordings=recordings, stacks=stacks, of=seen)):
        if verdict.certain and verdict.kind is not HangKind.MOVING:
            assert verdict.culprits == (job.fault.rank,), verdict.sentence


@settings(max_examples=150, deadline=None)
@given(jobs(), st.booleans(), st.data())
def test_a_job_that_goes_on_is_never_called_a_hang(job: Job, stacks: bool, data: st.DataObject) -> None:
    """Two looks at different moments; recorders are read one after the other, so ranks are seen at different steps."""
    healthy = replace(job, fault=None)
    moments = data.draw(st.lists(st.integers(3, STEPS), min_size=job.world, max_size=job.world))
    looks = []
    for rank, steps in enumerate(moments):
        before, after = replace(healthy), replace(healthy)
        before.run(steps - 1)
        after.run(steps)
        (old,), (new,) = (
            one.snapshot(recordings=True, stacks=stacks, of=[rank]).ranks for one in (before, after)
        )
        looks.append(new.model_copy(update={"before": old.recording, "still": None}))
    (verdict,) = judge_hang(Snapshot(seconds=3.0, ranks=tuple(looks)))
    assert (verdict.kind, verdict.culprits) == (HangKind.MOVING, ()), verdict.sentence


@pytest.mark.parametrize(("name", "nccl"), [*product(sorted(KINDS), (False, True))])
def test_each_fault_of_a_loop_of_different_calls_has_its_own_kind(name: str, nccl: bool) -> None:
    program = [Line("all", "all_reduce", 64), Line("all", "all_gather", 8), Line("all", "broadcast", 4)]
    job = Job(4, 1, program, Fault(name, 2, 3, 1), nccl)
    assert job.run(STEPS)
    (verdict,) = judge_hang(job.snapshot(recordings=True, stacks=True))
    assert verdict.kind in KINDS[name], verdict.sentence
    assert (verdict.culprits, verdict.certain, verdict.entry) == ((2,), True, "nccl-collective-timeout")


DUMPS = Path(__file__).parent / "dumps"


@pytest.mark.parametrize("version", ["torch-2.8", "torch-2.11", "torch-2.13"])
@pytest.mark.parametrize(
    ("job", "kind", "culprits", "certain"),
    [
        ("none", HangKind.UNKNOWN, (), False),
        ("skip", HangKind.SKIPPED, (1,), True),
        ("op", HangKind.OTHER_OP, (1,), True),
        # Dumps alone do not tell whether it is on its way.
        ("late", HangKind.LATE, (1,), False),
    ],
)
def test_dumps_of_real_jobs_name_the_rank_that_was_made_faulty(
    version: str, job: str, kind: HangKind, culprits: tuple[int, ...], *, certain: bool
) -> None:
    ranks, unseen = read_dumps(DUMPS / version / job)
    (verdict,) = judge_hang(Snapshot(seconds=0, ranks=ranks, unseen=unseen))
    assert (verdict.kind, verdict.culprits, verdict.certain) == (kind, culprits, certain), verdict.sentence


@pytest.mark.parametrize(
    ("job", "kind", "certain"), [("skip", HangKind.SKIPPED, True), ("late", HangKind.LATE, True)]
)
def test_dumps_of_real_jobs_over_nccl_name_the_rank(job: str, kind: HangKind, *, certain: bool) -> None:
    ranks, unseen = read_dumps(DUMPS / "nccl-2.31" / job)
    (verdict,) = judge_hang(Snapshot(seconds=0, ranks=ranks, unseen=unseen))
    assert (verdict.kind, verdict.culprits, verdict.certain) == (kind, (1,), certain), verdict.sentence


def test_the_dump_of_one_rank_whose_gpu_is_blocked_points_to_the_gpu() -> None:
    ranks, unseen = read_dumps(DUMPS / "nccl-2.28" / "blocked")
    (verdict,) = judge_hang(Snapshot(seconds=0, ranks=ranks, unseen=unseen))
    assert (verdict.kind, verdict.side) == (HangKind.SAME_PLACE, "GPU or network")
