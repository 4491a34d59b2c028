from collections.abc import Sequence
from typing import Any

import pytest

from runner.evidence.record import Measurement
from runner.hardware.boards import board_named
from runner.models import model_shape
from runner.probes.decode.job import Job
from runner.probes.decode.launches import Launches
from runner.probes.decode.report import FEWEST_UNDISTURBED, Arm, pairs_of, report, slow
from runner.sizing.decode import bytes_per_step

JOB = Job("8b", model_shape("8b"), None, "cuda", 2, 4, 100, 20)
LABELS = {"model": "8b"}


def answer(
    first: float, rest: Sequence[float], waited: tuple[float | None, float | None] = (0, 0)
) -> dict[str, Any]:
    return {"first": first, "rest": list(rest), "waited": list(waited)}


def arm(turns: int, first: float, step: float, waited: tuple[float | None, float | None] = (0, 0)) -> Arm:
    made = Arm(threads=2)
    for _ in range(turns):
        made.add([answer(first, [step] * 5, waited)])
    return made


def named(found: Sequence[Measurement], name: str, **labels: str) -> Measurement:
    (one,) = [m for m in found if m.name == name and labels.items() <= m.labels.items()]
    return one


def test_the_slowest_rank_speaks_for_its_turn() -> None:
    made = Arm()
    made.add([answer(1.0, [0.1, 0.4], (0.0, 0.2)), answer(2.0, [0.3, 0.2], (0.1, None))])
    assert (made.first, made.rest, made.waited) == ([2.0], [0.3, 0.4], [(0.1, 0.2)])


def test_percentiles_are_told_where_there_are_samples_for_them() -> None:
    few = report({"caller": arm(3, 1.0, 0.1)}, LABELS, JOB, None)
    assert not [found for found in few if found.name.endswith(("_p95", "_p99"))]
    many = report({"caller": arm(20, 1.0, 0.1)}, LABELS, JOB, None)
    assert {found.name for found in many if found.name.endswith(("_p95", "_p99"))} == {
        "time_to_first_token_p95",
        "time_per_output_token_p95",
        "time_per_output_token_p99",
    }


def test_bandwidth_utilisation_needs_a_board_and_shares_the_bytes_among_ranks() -> None:
    assert not [
        found for found in report({"caller": arm(3, 1, 0.1)}, LABELS, JOB, None) if "bandwidth" in found.name
    ]
    found = named(
        report({"caller": arm(3, 1, 0.1)}, LABELS, JOB, board_named("B200")), "bandwidth_utilisation"
    )
    assert found.value == pytest.approx(bytes_per_step(JOB.shape, 2, 110, 4) / 0.1 / (2 * 8.0e12))


def test_launches_are_told_per_step() -> None:
    made = arm(3, 1, 0.1)
    made.launches, made.counted_steps = Launches(0, 8, 24), 8
    found = report({"caller": made}, LABELS, JOB, None)
    assert named(found, "graph_replays").value == 1
    assert named(found, "plain_launches").value == 3
    assert named(found, "graph_captures").value == 0


def test_disturbed_pairs_are_left_out_of_the_ratio_and_stay_in_the_samples() -> None:
    caller, clean = arm(10, 2.0, 0.1), arm(10, 1.0, 0.1)
    for _ in range(5):
        caller.add([answer(50.0, [0.1] * 5, (0.4, 0))])
        clean.add([answer(1.0, [0.1] * 5)])
    found = report({"caller": caller, "clean": clean}, LABELS, JOB, None)
    assert named(found, "clean_ratio", phase="prefill").samples == (0.5,) * 10
    assert len(named(found, "clean_ratio", phase="decode").samples) == 15
    assert len(named(found, "time_to_first_token", arm="caller").samples) == 15
    assert "prefill reaches 50% of its speed in a clean environment" in (slow(found) or "")


def test_a_machine_that_never_leaves_pairs_in_peace_is_not_sure_of_anything() -> None:
    caller, clean = Arm(), Arm()
    for turn in range(40):
        # A neighbour that works whenever the caller's turn comes: every single pair says that it is slower.
        caller.add([answer(1.5 if turn else 1.2, [0.1] * 5, (0.5, 0))])
        clean.add([answer(1.0 if turn else 1.3, [0.1] * 5, (0, 0))])
    pairs = pairs_of(caller, clean)["prefill"]
    assert len(pairs.undisturbed) < FEWEST_UNDISTURBED
    assert pairs.used == pytest.approx((1.0 / 1.5, 1.0 / 1.5, 1.3 / 1.2))
    assert slow(report({"caller": caller, "clean": clean}, LABELS, JOB, None)) is None


def test_where_the_kernel_does_not_count_waiting_every_pair_is_used() -> None:
    pairs = pairs_of(arm(10, 2.0, 0.1, (None, None)), arm(10, 1.0, 0.1, (None, None)))
    assert len(pairs["prefill"].used) == 10
