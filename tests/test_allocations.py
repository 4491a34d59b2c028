from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from runner.kit.allocations import OverBudgetError, follow_allocations

KIB = 1024
# 256 × 4 bytes: one KiB, so that sizes below read as KiB.
ONE = (256,)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_a_tensor_counts_with_its_bytes_and_leaves_when_it_is_freed() -> None:
    with follow_allocations() as found:
        tensor = torch.ones(4, *ONE)
        assert (found.live, found.peak) == (4 * KIB, 4 * KIB)
        del tensor
        assert (found.live, found.peak) == (0, 4 * KIB)


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 2), (torch.bool, 1)]
)
def test_an_element_counts_with_the_size_of_its_type(dtype: torch.dtype, size: int) -> None:
    with follow_allocations() as found:
        tensor = torch.ones(1000, dtype=dtype)
        assert found.live == tensor.untyped_storage().nbytes() == 1000 * size


def test_views_of_a_storage_count_once() -> None:
    with follow_allocations() as found:
        tensor = torch.ones(4, *ONE)
        views = [tensor.view(-1), tensor.t(), tensor[1:3], tensor.expand(8, 4, *ONE), *tensor.unbind()]
        assert found.live == 4 * KIB
        del tensor
        assert found.live == 4 * KIB, "a view holds the whole storage"
        views.clear()
        assert found.live == 0


def test_work_in_place_counts_nothing_new() -> None:
    with follow_allocations() as found:
        tensor = torch.ones(*ONE)
        tensor.add_(1).mul_(2).clamp_(max=3)
        torch.add(tensor, 1, out=tensor)
        assert found.peak == KIB


def test_a_temporary_counts_at_the_peak_and_is_gone_after() -> None:
    with follow_allocations() as found:
        tensor = torch.ones(*ONE)
        result = (tensor + 1) * 2
        # Alive at the peak: the tensor, the sum and the product.
        assert (found.live, found.peak) == (2 * KIB, 3 * KIB)
        assert result.shape == tensor.shape


def test_every_result_of_an_operator_counts() -> None:
    with follow_allocations() as found:
        values, places = torch.zeros(1000).sort()
        assert (found.live, found.peak) == (1000 * (4 + 8), 1000 * (4 + 4 + 8))
        assert len(values) == len(places)


def test_the_memory_of_a_freed_tensor_counts_again_when_another_takes_its_place() -> None:
    with follow_allocations() as found:
        for _ in range(100):
            torch.ones(64, *ONE)
        assert (found.live, found.peak) == (0, 64 * KIB)


def test_tensors_from_before_count_once_they_are_added() -> None:
    weights = [torch.ones(2, *ONE), torch.ones(3, *ONE)]
    with follow_allocations() as found:
        assert found.live == 0
        found.add(*weights, weights[0].view(-1))
        assert found.live == 5 * KIB
        found.add(*weights)
        assert found.live == 5 * KIB


def test_tensors_on_the_meta_device_take_no_memory() -> None:
    with follow_allocations() as found:
        tensor = torch.ones(10**12, device="meta")
        assert (found.live, found.peak) == (0, 0)
        assert tensor.numel() == 10**12


def test_the_limit_itself_is_within_and_a_byte_more_is_over() -> None:
    with follow_allocations(limit=2 * KIB) as found:
        tensor = torch.ones(2, *ONE)
        with pytest.raises(OverBudgetError, match="2049 bytes live, limit 2048"):
            torch.ones(1, dtype=torch.bool)
    assert found.peak == 2 * KIB + 1
    assert tensor.shape == (2, *ONE)


def test_what_went_over_the_limit_is_let_go_again() -> None:
    with follow_allocations(limit=2 * KIB) as found:
        with pytest.raises(OverBudgetError):
            torch.ones(3, *ONE)
        assert (found.live, found.peak) == (0, 3 * KIB)
        assert torch.ones(*ONE).numel() == 256


def test_weights_alone_can_be_over_the_limit() -> None:
    weights = torch.ones(2, *ONE)
    with follow_allocations(limit=KIB) as found, pytest.raises(OverBudgetError):
        found.add(weights)


def mlp(hidden: int, ff: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(hidden, ff, bias=False), nn.GELU(), nn.Linear(ff, hidden, bias=False)
    ).requires_grad_(requires_grad=False)


def test_the_peak_of_an_mlp_is_the_one_counted_by_hand() -> None:
    model, tokens = mlp(64, 256), torch.ones(32, 64)
    with follow_allocations() as found:
        found.add(tokens, *model.parameters())
        result = model(tokens)
    weights, narrow, wide = 2 * 64 * 256 * 4, 32 * 64 * 4, 32 * 256 * 4
    # At the fullest, the activation: its input and its result, and the prompt.
    assert found.peak == weights + narrow + 2 * wide
    assert result.untyped_storage().nbytes() == narrow


def test_the_peak_of_an_mlp_is_the_one_that_torchs_own_profiler_sees() -> None:
    model, tokens = mlp(128, 1024), torch.ones(64, 128)
    with follow_allocations() as found:
        found.add(tokens, *model.parameters())
        before = found.live
        result = model(tokens)
    assert result.shape == tokens.shape
    assert found.peak - before == profiled_peak(model, tokens)


def test_a_tensor_from_before_counts_as_soon_as_a_view_of_it_is_returned() -> None:
    tensor = torch.ones(*ONE)
    with follow_allocations() as found:
        assert tensor.view(-1).shape == ONE
        assert found.peak == KIB


def profiled_peak(model: nn.Module, tokens: torch.Tensor) -> int:
    """The highest sum of allocations that the profiler's memory timeline comes to."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = model(tokens)
    assert result.shape == tokens.shape
    events: Any = profile.profiler
    live = peak = 0
    for event in events.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak
