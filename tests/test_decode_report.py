from collections.abc import Sequence
from typing import Any

import pytest

from runner.base.sequential import FEWEST
from runner.base.sequential import answer as answered
from runner.entry.model import Condition, Phase
from runner.hardware.boards import board_named
from runner.kit.decode.arms import FEWEST_UNDISTURBED, DecodeArm, DecodeStart, compared, intervals
from runner.kit.decode.job import DecodeJob
from runner.kit.decode.report import decode_measurements, slow, undecided
from runner.kit.interleaved import decided
from runner.kit.profiling import Launches
from runner.record.evaluation import evaluate, interval_of
from runner.record.model import Measurement, Verdict
from runner.sizing.limits import bytes_per_step
from runner.sizing.models import model_shape
from tests.builders import a_machine
from tests.evidence_samples import step as a_result

JOB = DecodeJob("8b", model_shape("8b"), None, "cuda", 2, 4, 100, 20)
LABELS = {"model": "8b"}


def answer(
    first: float, rest: Sequence[float], waited: tuple[float | None, float | None] = (0, 0)
) -> dict[str, Any]:
    return {"first": first, "rest": list(rest), "waited": list(waited)}


def start(
    turns: int, first: float, step: float, waited: tuple[float | None, float | None] = (0, 0)
) -> DecodeStart:
    made = DecodeStart()
    for _ in range(turns):
        made.add([answer(first, [step] * 5, waited)])
    return made


def arm(turns: int, first: float, step: float) -> DecodeArm:
    return DecodeArm(starts=[start(turns, first, step)], threads=2)


def named(found: Sequence[Measurement], name: str, **labels: str) -> Measurement:
    (one,) = [m for m in found if m.name == name and labels.items() <= m.labels.items()]
    return one


def test_the_slowest_rank_speaks_for_its_turn() -> None:
    made = DecodeStart()
    made.add([answer(1.0, [0.1, 0.4], (0.0, 0.2)), answer(2.0, [0.3, 0.2], (0.1, None))])
    assert (made.first, made.rest, made.waited) == ([2.0], [0.3, 0.4], [(0.1, 0.2)])


def test_percentiles_are_told_where_there_are_samples_for_them() -> None:
    few = decode_measurements({"caller": arm(3, 1.0, 0.1)}, LABELS, JOB, None)
    assert not [found for found in few if found.name.endswith(("_p95", "_p99"))]
    many = decode_measurements({"caller": arm(20, 1.0, 0.1)}, LABELS, JOB, None)
    assert {found.name for found in many if found.name.endswith(("_p95", "_p99"))} == {
        "time_to_first_token_p95",
        "time_per_output_token_p95",
        "time_per_output_token_p99",
    }


def test_bandwidth_utilisation_needs_a_board_and_shares_the_bytes_among_ranks() -> None:
    assert not [
        found
        for found in decode_measurements({"caller": arm(3, 1, 0.1)}, LABELS, JOB, None)
        if "bandwidth" in found.name
    ]
    found = named(
        decode_measurements({"caller": arm(3, 1, 0.1)}, LABELS, JOB, board_named("B200")),
        "bandwidth_utilisation",
    )
    assert found.value == pytest.approx(bytes_per_step(JOB.shape, 2, 110, 4) / 0.1 / (2 * 7.672e12), rel=1e-4)


def test_launches_are_told_per_step() -> None:
    made = arm(3, 1, 0.1)
    made.launches, made.counted_steps = Launches(0, 8, 24), 8
    found = decode_measurements({"caller": made}, LABELS, JOB, None)
    assert named(found, "graph_replays").value == 1
    assert named(found, "plain_launches").value == 3
    assert named(found, "graph_captures").value == 0


def test_the_unit_is_the_process_and_not_its_turns() -> None:
    caller, clean = DecodeArm(), DecodeArm()
    for number in range(20):
        # Each process is dealt its own speed, and keeps it for all of its turns.
        caller.starts.append(start(50, 1.0 + 0.01 * (number % 5), 0.1))
        clean.starts.append(start(50, 1.0 + 0.01 * (number % 4), 0.1))
    found = decode_measurements({"caller": caller, "clean": clean}, LABELS, JOB, None)
    assert len(named(found, "clean_ratio", phase="prefill").samples) == 20
    assert len(named(found, "time_to_first_token", arm="caller").samples) == 20
    assert len(named(found, "time_to_first_token_p99", arm="caller").samples) == 20 * 50
    bounds = interval_of(named(found, "clean_ratio", phase="prefill"))
    assert bounds is not None
    assert bounds.low < bounds.high
    assert bounds.covers(1.0)


def test_disturbed_pairs_are_left_out_of_a_starts_ratio() -> None:
    caller, clean = DecodeArm(), DecodeArm()
    for _ in range(FEWEST):
        ours, theirs = start(10, 2.0, 0.1), start(10, 1.0, 0.1)
        for _ in range(15):
            ours.add([answer(50.0, [0.1] * 5, (0.4, 0))])
            theirs.add([answer(1.0, [0.1] * 5)])
        caller.starts.append(ours)
        clean.starts.append(theirs)
    found = decode_measurements({"caller": caller, "clean": clean}, LABELS, JOB, None)
    assert named(found, "clean_ratio", phase="prefill").samples == (0.5,) * FEWEST
    assert len(named(found, "time_to_first_token_p95", arm="caller").samples) == 25 * FEWEST
    assert "prefill: speed is 50% of that in a clean environment" in (slow(found) or "")


def test_a_machine_that_never_leaves_starts_in_peace_is_not_sure_of_anything() -> None:
    caller, clean = DecodeArm(), DecodeArm()
    for number in range(40):
        # A neighbour that works whenever the caller's turn comes: every start but one says that it is slower.
        caller.starts.append(start(8, 1.5 if number else 1.2, 0.1, (0.5, 0)))
        clean.starts.append(start(8, 1.0 if number else 1.3, 0.1))
    found = compared(caller, clean)["prefill"]
    assert len(found.undisturbed) < FEWEST
    assert found.used == pytest.approx((1.0 / 1.5,))
    assert not decided([found.interval], 0.9)
    assert "prefill: too few (0 of 40 starts undisturbed)" in (undecided({"prefill": found}, 0.9) or "")
    assert slow(decode_measurements({"caller": caller, "clean": clean}, LABELS, JOB, None)) is None


def test_a_busy_machine_on_which_the_fault_wins_every_turn_says_nothing_either() -> None:
    caller, clean = DecodeArm(), DecodeArm()
    for _ in range(20):
        # A neighbour holds one core: the clean side's second thread waits for it, the leftover single thread does not.
        caller.starts.append(start(8, 1.0, 0.1))
        clean.starts.append(start(8, 7.0, 0.7, (0.9, 0.9)))
    assert [comparison.interval.bounded for comparison in compared(caller, clean).values()] == [False, False]


def test_a_start_with_too_few_undisturbed_pairs_counts_as_disturbed() -> None:
    caller, clean = DecodeArm(), DecodeArm()
    for number in range(FEWEST + 1):
        ours = start(FEWEST_UNDISTURBED - (number == 0), 1.0, 0.1)
        ours.add([answer(9.0, [0.1] * 5, (0.5, 0))])
        caller.starts.append(ours)
        clean.starts.append(start(FEWEST_UNDISTURBED + 1 - (number == 0), 1.0, 0.1))
    found = compared(caller, clean)
    assert found["prefill"].used == (1.0,) * FEWEST
    assert len(found["decode"].used) == FEWEST + 1


def test_where_the_kernel_does_not_count_waiting_every_pair_is_used() -> None:
    caller = DecodeArm(starts=[start(10, 2.0, 0.1, (None, None)) for _ in range(6)])
    clean = DecodeArm(starts=[start(10, 1.0, 0.1, (None, None)) for _ in range(6)])
    assert compared(caller, clean)["prefill"].used == (0.5,) * 6


def alike(ratios: Sequence[float], prefill: float = 1.0) -> tuple[DecodeArm, DecodeArm]:
    """The caller's and the clean side, with this ratio in decoding at each start, and `prefill` times it in prefill."""
    caller = DecodeArm(starts=[start(4, 1.0 / (ratio * prefill), 0.1 / ratio) for ratio in ratios])
    return caller, DecodeArm(starts=[start(4, 1.0, 0.1) for _ in ratios])


SPREAD_OF_5 = (0.98, 1.02, 1.01, 0.99, 1.0, 1.02, 0.97, 1.01)


def test_starts_end_once_every_phase_reaches_the_bound_or_one_does_not() -> None:
    assert not decided(intervals(compared(*alike(SPREAD_OF_5[:3]))), 0.9)
    assert decided(intervals(compared(*alike(SPREAD_OF_5))), 0.9)
    assert not decided(intervals(compared(*alike(SPREAD_OF_5))), 0.99)
    assert decided(intervals(compared(*alike(SPREAD_OF_5, prefill=0.6))), 0.9)
    assert not decided(intervals(compared(*alike(SPREAD_OF_5, prefill=0.9))), 0.9)


@pytest.mark.parametrize("prefill", [1.0, 0.97, 0.95, 0.9, 0.6])
@pytest.mark.parametrize("starts", range(1, 9))
def test_the_verdict_on_the_stored_samples_is_what_the_starts_were_stopped_by(
    starts: int, prefill: float
) -> None:
    caller, clean = alike(SPREAD_OF_5[:starts], prefill)
    comparison = compared(caller, clean)["prefill"]
    found = decode_measurements({"caller": caller, "clean": clean}, LABELS, JOB, None)
    step = a_result("warm", *found, phase=Phase.VERIFY)
    bound = Condition(metric="warm.clean_ratio", at={"phase": "prefill"}, min=0.95)
    verdict = evaluate(bound, [step], a_machine()).verdict
    expected = {"above": Verdict.MET, "below": Verdict.MISSED, "undecided": Verdict.INCONCLUSIVE}
    assert verdict is expected[answered(comparison.interval, 0.95)]
