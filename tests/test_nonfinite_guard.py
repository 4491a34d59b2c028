"""The guard for values that are not finite, on small models in one process: what it names, and what it lets pass."""

import importlib
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from runner.guards.census import weights_census
from runner.guards.nonfinite import NonFinite, NonFiniteGuard, Place, skip_step

WIDTH = 4
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


def chain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    )


def spoil(module: nn.Module, value: float, *, gradient: bool = False) -> None:
    """From now on, one place of the module's output, or of its gradient, has this value."""

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        copy.view(-1)[0] = value
        return copy

    def hook(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        if gradient:
            register: Any = output.register_hook
            register(changed)
            return output
        return changed(output)

    module.register_forward_hook(hook)


def trained(model: nn.Module, values: torch.Tensor | None = None) -> NonFiniteGuard:
    guard = NonFiniteGuard(model)
    run(model, values)
    return guard


def run(model: Any, values: torch.Tensor | None = None) -> None:
    output = model(torch.ones(2, WIDTH) if values is None else values)
    output.square().sum().backward()


def named(guard: NonFiniteGuard) -> NonFinite:
    found = guard.check()
    assert found is not None
    return found


@given(BAD, st.sampled_from(["0", "1", "2.0", "2.1"]))
def test_the_first_module_whose_output_is_not_finite_is_named_wherever_it_is(value: float, name: str) -> None:
    model = chain()
    spoil(model.get_submodule(name), value)
    if name == "2.1":
        # What a container hands on from its last part is named after the part.
        assert model[2][1] is model.get_submodule(name)
    found = named(trained(model))
    assert found.place == Place("output", name)
    assert found.kind == ("nan" if math.isnan(value) else "inf")
    assert found.ranks == found.affected == (0,)


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("0", "gradient of bias"),
        ("1", "gradient of the output"),
        ("2.0", "gradient of bias"),
        ("2.1", "gradient of the output"),
    ],
)
def test_a_gradient_is_named_at_the_parameter_or_at_the_output_of_a_module_without_any(
    name: str, phase: str
) -> None:
    model = chain()
    spoil(model.get_submodule(name), math.nan, gradient=True)
    assert named(trained(model)).place == Place(phase, name)


def test_the_place_before_brackets_the_fault() -> None:
    model = chain()
    spoil(model[2][0], math.inf)
    found = named(trained(model))
    assert found.after == Place("output", "1")
    assert str(found) == "step 0, rank 0: first inf in output of 2.0; still finite: output of 1"


def test_a_frozen_module_has_the_gradient_of_its_output_watched() -> None:
    model = chain()
    model[2][0].requires_grad_(requires_grad=False)
    spoil(model[2][0], math.nan, gradient=True)
    assert named(trained(model)).place == Place("gradient of the output", "2.0")


def test_one_gradient_of_a_parameter_that_overflows_is_named_though_all_outputs_are_finite() -> None:
    model = chain()
    model[2][0].weight.register_hook(lambda gradient: gradient * math.inf)
    found = named(trained(model))
    assert found.place == Place("gradient of weight", "2.0")


def test_a_nan_in_the_data_is_named_as_the_input_and_an_infinity_there_at_the_module_that_it_reaches() -> (
    None
):
    values = torch.ones(2, WIDTH)
    values[0, 0] = math.nan
    assert named(trained(chain(), values)).place == Place("input", "")
    values[0, 0] = math.inf
    assert named(trained(chain(), values)).place == Place("output", "0")


def test_a_loss_outside_of_the_model_is_watched_by_name() -> None:
    model = chain()
    guard = NonFiniteGuard(model)
    loss = guard.watch(model(torch.ones(1, WIDTH)).sum() * math.nan)
    assert loss.isnan()
    assert named(guard).place == Place("output", "loss")


class Masked(nn.Module):
    """Hands a mask of -inf to its parts, and one of them returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.mask, self.linear = nn.Identity(), nn.Linear(WIDTH, WIDTH)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.softmax(self.linear(values) + self.mask(mask), dim=-1)
        return result


def test_masks_of_minus_infinity_are_legal_as_input_and_as_output_where_allowed() -> None:
    model, mask = Masked(), torch.zeros(WIDTH)
    mask[0] = -math.inf
    with NonFiniteGuard(model, allow=["mask"]) as guard:
        model(torch.ones(1, WIDTH), mask).square().sum().backward()
        assert guard.check() is None
        model(torch.ones(1, WIDTH), mask * math.nan).square().sum().backward()
        assert named(guard).place == Place("input", "")
    with NonFiniteGuard(model) as guard:
        model(torch.ones(1, WIDTH), mask).square().sum().backward()
        assert named(guard).place == Place("output", "mask")


class Parts(nn.Module):
    """Returns what models return: a mapping with tensors, numbers, integers, empty and complex tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, values: torch.Tensor) -> dict[str, object]:
        hidden = self.linear(values)
        return {
            "hidden": (hidden, None, 3),
            "tokens": torch.ones(2, dtype=torch.long),
            "none": torch.empty(0),
            "complex": torch.complex(hidden, hidden),
            "fp8": hidden.detach().to(torch.float8_e4m3fn),
            "largest": torch.full((5,), torch.finfo(torch.float16).max, dtype=torch.float16),
            "list": [{"deep": torch.full((2,), -torch.finfo(torch.float32).max)}],
        }


def test_outputs_of_every_kind_are_read_and_the_largest_finite_numbers_are_finite() -> None:
    model: Any = Parts()
    guard = NonFiniteGuard(model)
    model(torch.ones(1, WIDTH))["hidden"][0].sum().backward()
    assert guard.check() is None
    model(torch.full((1, WIDTH), math.nan))
    assert named(guard).place == Place("input", "")


def test_sparse_gradients_of_an_embedding_are_read() -> None:
    model = nn.Sequential(nn.Embedding(8, WIDTH, sparse=True))
    guard = NonFiniteGuard(model)
    model(torch.tensor([1, 1])).sum().backward()
    assert guard.check() is None
    (model(torch.tensor([1, 1])) * math.inf).sum().backward()
    assert named(guard).place == Place("gradient of weight", "0")


def test_an_evaluation_between_steps_is_not_judged_and_fills_no_memory() -> None:
    model = chain()
    with NonFiniteGuard(model) as guard:
        model.eval()
        with torch.no_grad():
            model(torch.full((1, WIDTH), math.nan))
        with torch.inference_mode():
            model.train()(torch.full((1, WIDTH), math.nan))
        assert guard._records == []
        run(model)
        assert guard.check() is None


def test_a_step_of_many_passes_keeps_a_bounded_number_of_records_and_still_names_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.guards.nonfinite._MOST_RECORDS", 8)
    model = chain()
    with NonFiniteGuard(model) as guard:
        for scale in (1.0, 1.0, math.inf, math.nan):
            run(model, torch.full((1, WIDTH), scale))
            assert len(guard._records) < 8
        assert named(guard).place == Place("output", "0")
        run(model)
        assert guard.check() is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_block_is_seen(reentrant: bool) -> None:
    model = chain()
    spoil(model[1], math.inf)
    with NonFiniteGuard(model) as guard:
        values = torch.ones(2, WIDTH, requires_grad=True)
        run(lambda given: checkpoint(model, given, use_reentrant=reentrant), values)
        assert named(guard).place == Place("output", "1")


def test_a_change_in_place_is_seen_although_the_tensor_is_the_same() -> None:
    class InPlace(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.add_(math.inf)

    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), InPlace())
    guard = NonFiniteGuard(model)
    model(torch.ones(1, WIDTH))
    assert named(guard).place == Place("output", "1")


def test_an_output_that_the_model_returns_beside_others_is_read_once() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(WIDTH, WIDTH)

        def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.head(values)
            return logits.sum(), logits

    model = WithLoss()
    guard = NonFiniteGuard(model)
    model(torch.ones(1, WIDTH))
    assert [place for place, _ in guard._records] == [
        Place("input", ""),
        Place("output", "head"),
        Place("output", ""),
    ]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_sum_that_overflows_is_no_finding_and_hides_none(kind: torch.dtype) -> None:
    model = nn.Identity()
    guard = NonFiniteGuard(model)
    large = torch.full((8, WIDTH), torch.finfo(kind).max, dtype=kind, requires_grad=True)
    model(large)
    assert guard.check() is None
    model(torch.cat([large, torch.tensor([[math.inf, -math.inf, 0, 0]], dtype=kind)]))
    assert named(guard).kind == "inf"


def test_scaled_gradients_may_overflow_and_values_of_the_forward_pass_may_not() -> None:
    model = chain()
    spoil(model[1], math.inf, gradient=True)
    with NonFiniteGuard(model) as guard:
        run(model)
        assert guard.check(loss_scale=65536.0) is None
        run(model)
        assert guard.check(loss_scale=1.0) is not None
    forward = chain()
    spoil(forward[1], math.inf)
    assert trained(forward).check(loss_scale=65536.0) is not None


def test_hooks_are_gone_after_the_context_and_change_no_result() -> None:
    model, twin = chain(), chain()
    with NonFiniteGuard(model) as guard:
        run(model)
        assert guard.check() is None
    run(twin)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert not any(one._backward_hooks for one in model.parameters())


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda of: torch.optim.AdamW(of, lr=0.1, weight_decay=0.1),
    lambda of: torch.optim.AdamW(of, lr=0.1, fused=True),
    lambda of: torch.optim.SGD(of, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda of: torch.optim.Adagrad(of, lr=0.1),
]


@pytest.mark.parametrize("made", OPTIMIZERS)
def test_a_skipped_step_changes_no_bit_of_weights_and_state(
    made: Callable[[Any], torch.optim.Optimizer],
) -> None:
    model = chain()
    optimizer = made(model.parameters())

    def step(*, skipped: bool) -> None:
        run(model, torch.full((1, WIDTH), math.nan if skipped else 1.0))
        if skipped:
            skip_step(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def state() -> list[torch.Tensor]:
        kept = [
            one for own in optimizer.state.values() for one in own.values() if isinstance(one, torch.Tensor)
        ]
        return [one.detach().clone() for one in (*model.parameters(), *kept)]

    step(skipped=False)
    before = state()
    step(skipped=True)
    assert all(torch.equal(one, other) for one, other in zip(before, state(), strict=True))
    step(skipped=False)
    assert not all(torch.equal(one, other) for one, other in zip(before, state(), strict=True))


# Dynamo asks an input that is no leaf for its gradient, and hides the warning, but not from a filter that raises.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("how", ["before", "after", "in place", "a block"])
def test_a_compiled_model_says_what_is_not_seen_and_its_gradients_are(how: str) -> None:
    torch._dynamo.reset()
    model: Any = chain()
    whole: dict[str, Any] = {"backend": "aot_eager", "fullgraph": True}
    if how == "before":
        guard, compiled = NonFiniteGuard(model), torch.compile(model, **whole)
    elif how == "after":
        wrapped: Any = torch.compile(model, **whole)
        guard, compiled = NonFiniteGuard(wrapped), wrapped
    else:
        (model if how == "in place" else model[2]).compile(**whole)
        guard, compiled = NonFiniteGuard(model), model
    run(compiled)
    with pytest.warns(RuntimeWarning, match="sees no output of . of 2 modules"):
        assert guard.check() is None
    assert guard.unseen == (("2.0",) if how == "a block" else ("0", "2.0"))
    model[2][0].weight.register_hook(lambda gradient: gradient * math.nan)
    model[2][0].weight.data.fill_(math.nan)
    run(compiled)
    assert guard.check() is not None
    guard.close()


def test_a_check_without_a_step_is_no_silent_pass() -> None:
    guard = NonFiniteGuard(chain())
    with pytest.warns(RuntimeWarning, match="nothing was recorded since the last check"):
        assert guard.check() is None


def test_a_module_that_is_never_called_is_named_once() -> None:
    model: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    model[0].spare = nn.Linear(WIDTH, WIDTH)
    guard = trained(model)
    with pytest.warns(RuntimeWarning, match=r"1 of 2 modules \(0\.spare"):
        guard.check()
    run(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.check()
    assert guard.unseen == ("0.spare",)


def test_fsdp1_is_refused_because_its_gradients_cannot_be_seen() -> None:
    class FullyShardedDataParallel(nn.Module):
        pass

    with pytest.raises(ValueError, match="shard the model with fully_shard"):
        NonFiniteGuard(nn.Sequential(FullyShardedDataParallel()))


def test_the_census_names_parameters_and_buffers_and_lets_a_mask_pass() -> None:
    model: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH))
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    model.register_buffer("count", torch.tensor([3]))
    model.register_buffer("empty", torch.empty(0))
    assert weights_census(model) == ()
    # A forward pass changes the means of a batch norm, which no skipped step undoes.
    model(torch.full((2, WIDTH), math.nan))
    assert weights_census(model) == ("1.running_mean", "1.running_var")
    with torch.no_grad():
        model[0].weight[0, 0] = -math.inf
    assert "0.weight" in weights_census(model)


def test_a_grad_scaler_keeps_its_overflows_and_lowers_its_scale() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = [one.detach().clone() for one in model.parameters()]
    with NonFiniteGuard(model) as guard:
        scaler.scale(model(torch.ones(1, WIDTH)).sum() * 1e38).backward()
        assert guard.check(loss_scale=scaler.get_scale()) is None
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**15
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def _one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = chain()
    with NonFiniteGuard(model) as guard:
        run(model, torch.full((1, WIDTH), math.inf if rank else 1.0))
        found = guard.check(dist.group.WORLD)
    if rank:
        with torch.no_grad():
            model[0].weight[0, 0] = math.nan
    bad = weights_census(model, dist.group.WORLD)
    said = {"place": found and list(found.place), "ranks": found and list(found.ranks), "bad": list(bad)}
    Path(folder, str(rank)).write_text(json.dumps(said), encoding="utf-8")
    dist.destroy_process_group()


@pytest.mark.system
def test_all_ranks_of_a_group_agree_on_a_finding_and_on_the_census(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    start: Any = importlib.import_module("torch.multiprocessing").spawn
    start(_one_rank, (str(tmp_path),), nprocs=2)
    said = [json.loads((tmp_path / str(rank)).read_text(encoding="utf-8")) for rank in (0, 1)]
    assert said[0] == said[1] == {"place": ["output", "0"], "ranks": [1], "bad": ["0.weight"]}
