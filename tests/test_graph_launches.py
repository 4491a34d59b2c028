from collections.abc import Sequence
from typing import Any

import pytest
import torch

from runner.kit.decode.arms import DecodeArm
from runner.kit.decode.report import graphs_lost
from runner.kit.profiling import Launches, count_launches, replays_of


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
    assert count_launches(calls) == expected


@pytest.mark.parametrize(
    ("launches", "said"),
    [
        (Launches(0, 8, 8), None),
        (Launches(0, 0, 2400), "not replayed: 0 replays and 300 single launches per step"),
        (Launches(0, 4, 1200), "not replayed: 0.5 replays"),
        (Launches(None, 0, None), "not replayed: 0 replays per step; look for"),
        (Launches(None, 8, None), None),
        (Launches(8, 8, 2400), "captured again in steady state (8 times in 8 steps)"),
        (None, None),
    ],
)
def test_graphs_are_lost_where_steps_do_not_replay_or_capture_again(
    launches: Launches | None, said: str | None
) -> None:
    found = graphs_lost(DecodeArm(launches=launches, counted_steps=8))
    assert (said is None) == (found is None)
    assert (said or "") in (found or "")


def test_replays_are_counted_by_torchs_own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed: list[Any] = []
    # Where torch has no CUDA, the class cannot be made; its function needs none.
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", replayed.append)

    graphs: Any = ("a", "b", "a")

    def work() -> None:
        for graph in graphs:
            torch.cuda.CUDAGraph.replay(graph)

    assert replays_of(work) == 3
    assert replayed == ["a", "b", "a"]
    work()
    assert replays_of(lambda: None) == 0
