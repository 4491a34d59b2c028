from collections.abc import Sequence

import pytest

from runner.probes.decode.arms import Arm
from runner.probes.decode.launches import Launches, count
from runner.probes.decode.report import graphs_lost


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (["cudaGraphLaunch", "cudaStreamSynchronize"] * 4, Launches(0, 4, 0)),
        (["cudaLaunchKernel", "cuLaunchKernelEx", "cudaLaunchKernelExC", "aten::mm"], Launches(0, 0, 3)),
        (["cudaStreamBeginCapture", "cudaLaunchKernel", "cudaGraphLaunch"], Launches(1, 1, 1)),
        (["cudaLaunchCooperativeKernel", "cuGraphLaunch"], Launches(0, 1, 1)),
        (["cudaMemcpyAsync", "aten::add", "cudaStreamSynchronize"], None),
        ([], None),
    ],
)
def test_calls_are_counted_by_what_they_launch(calls: Sequence[str], expected: Launches | None) -> None:
    assert count(calls) == expected


@pytest.mark.parametrize(
    ("launches", "said"),
    [
        (Launches(0, 8, 8), None),
        (Launches(0, 0, 2400), "not replayed: 0 replays and 300 single launches per step"),
        (Launches(0, 4, 1200), "not replayed: 0.5 replays"),
        (Launches(8, 8, 2400), "captured again in steady state (8 times in 8 steps)"),
        (None, None),
    ],
)
def test_graphs_are_lost_where_steps_do_not_replay_or_capture_again(
    launches: Launches | None, said: str | None
) -> None:
    found = graphs_lost(Arm(launches=launches, counted_steps=8))
    assert (said is None) == (found is None)
    assert (said or "") in (found or "")
