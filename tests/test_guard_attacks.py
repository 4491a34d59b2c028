"""Models, jobs and hosts that are out of the ordinary: a guard says what it does not see, and never ends the job."""

import copy
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from runner.guards import step_meter
from runner.guards.census import weights_census
from runner.guards.nonfinite import NonFiniteGuard
from runner.guards.recompiles import RecompileCounter, RecompiledError
from runner.guards.sdc_vote import decide_vote, replicas_agree
from runner.guards.step_meter import StepMeter

torch = pytest.importorskip("torch")


@dataclass
class Answer:
    logits: Any


class Opaque:
    def __init__(self, logits: Any) -> None:
        self.logits = logits


class Answering(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Its output is made of a function of its parameters, which no inner module returns."""

    def __init__(self, made: Any, factor: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.made, self.factor = made, factor

    def forward(self, x: Any) -> Any:
        return self.made(x * self.weight * self.factor)


def test_a_value_in_a_dataclass_is_seen() -> None:
    guard = NonFiniteGuard(model := Answering(Answer, math.nan))
    model(torch.ones(2, 4))
    assert (
        str(guard.check())
        == "step 0, rank 0: first nan in output of the model; still finite: input of the model"
    )


@pytest.mark.parametrize("made", [Opaque, lambda _: None])
def test_a_module_whose_output_cannot_be_seen_is_named(made: Any) -> None:
    guard = NonFiniteGuard(model := Answering(made, math.nan))
    model(torch.ones(2, 4))
    with pytest.warns(RuntimeWarning, match="no output of 1 of 1"):
        assert guard.check() is None
    assert guard.unseen == ("",)


def test_an_evaluation_does_not_make_a_module_seen() -> None:
    guard = NonFiniteGuard(model := torch.nn.Sequential(torch.nn.Linear(4, 4)))
    model.eval()
    with torch.no_grad():
        model(torch.ones(2, 4))
    with pytest.warns(RuntimeWarning, match="nothing was recorded"):
        guard.check()
    assert guard.unseen == ("0",)


def test_a_copy_of_a_watched_model_is_not_watched() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    guard = NonFiniteGuard(model)
    model(torch.ones(2, 4)).sum().backward()
    teacher = copy.deepcopy(model)
    for one in teacher.parameters():
        one.data.fill_(math.nan)
    teacher(torch.ones(2, 4)).sum().backward()
    assert guard.check() is None
    model(torch.full((2, 4), math.nan))
    assert guard.check() is not None


@pytest.mark.parametrize(
    "kind", ["nested", "to_sparse", "to_sparse_csr", "to_mkldnn", "float8_e5m2", "complex64"]
)
@pytest.mark.parametrize("value", [1.0, math.nan])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_of_any_layout_and_type_are_read(kind: str, value: float) -> None:
    class Laid(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: Any) -> Any:
            x = x * value
            if kind == "nested":
                return torch.nested.nested_tensor([x, x[:1]], layout=torch.jagged)
            return getattr(x, kind)() if kind.startswith("to_") else x.to(getattr(torch, kind))

    guard = NonFiniteGuard(model := Laid())
    model(torch.ones(2, 4))
    found = guard.check()
    assert (found and found.kind) == ("nan" if math.isnan(value) else None)


def test_parameters_that_are_made_anew_are_not_kept() -> None:
    guard = NonFiniteGuard(model := torch.nn.Linear(4, 4))
    for _ in range(20):
        made = {name: one * 1.0 for name, one in model.named_parameters()}
        torch.func.functional_call(model, made, (torch.ones(2, 4),)).sum().backward()
        assert guard.check() is None
    assert len(guard._parameters) <= 4


def test_under_a_transform_nothing_is_seen_and_nothing_breaks() -> None:
    guard = NonFiniteGuard(model := torch.nn.Linear(4, 4))

    def loss(parameters: Any, x: Any) -> Any:
        return torch.func.functional_call(model, parameters, (x[None],)).sum()

    parameters = {name: one.detach() for name, one in model.named_parameters()}
    torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, torch.full((3, 4), math.nan))
    with pytest.warns(RuntimeWarning, match="nothing was recorded"):
        assert guard.check() is None


def test_a_lazy_model_is_watched_from_its_first_call() -> None:
    guard = NonFiniteGuard(model := torch.nn.Sequential(torch.nn.LazyLinear(4)))
    model(torch.ones(2, 4)).sum().backward()
    assert guard.check() is None
    (model(torch.ones(2, 4)) * math.nan).sum().backward()
    assert "gradient of" in str(guard.check())


def test_a_census_counts_complex_weights_and_not_a_mask_that_hides_all() -> None:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("mask", torch.full((2, 2), -math.inf))
    assert weights_census(model) == ()
    model.register_buffer("phases", torch.full((2,), complex(1.0, math.nan)))
    model.register_buffer("limits", torch.full((2,), math.inf))
    assert weights_census(model) == ("limits", "phases")


def test_a_vote_on_nothing_decides_nothing() -> None:
    for verdict in (decide_vote([[[]]] * 3, ["k"] * 3, []), decide_vote([], [], ["x"])):
        assert (verdict.outcome, verdict.sentence) == ("unknown", "unknown: nothing to compare")
    assert replicas_agree(torch.nn.ReLU()).outcome == "unknown"


@pytest.fixture
def counter() -> Iterator[RecompileCounter]:
    torch._dynamo.reset()
    with RecompileCounter() as one:
        yield one
    torch._dynamo.reset()


def test_a_job_whose_frames_all_run_in_eager_mode_has_compiled_nothing(counter: RecompileCounter) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no compiler")

    step = torch.compile(lambda x: x + 1, backend=broken)
    counter.warm_up(steps=2)
    with torch._dynamo.config.patch(suppress_errors=True):
        step(torch.ones(2))
    with pytest.raises(
        RecompiledError, match=r"nothing was compiled while it counted \(step 0: <lambda> .*could not"
    ):
        counter.check()


def test_a_frame_in_eager_mode_beside_compiled_ones_fails_with_graph_breaks(
    counter: RecompileCounter,
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no compiler")

    counter.warm_up(steps=2)
    torch.compile(lambda x: x + 2, backend="eager")(torch.ones(2))
    counter.check(graph_breaks=True)
    with torch._dynamo.config.patch(suppress_errors=True):
        torch.compile(lambda x: x + 3, backend=broken)(torch.ones(2))
    counter.check()
    with pytest.raises(RecompiledError, match="could not be compiled"):
        counter.check(graph_breaks=True)


def test_a_closed_counter_counts_no_more_and_leaves_no_callback(counter: RecompileCounter) -> None:
    counter.warm_up(steps=1)
    step = torch.compile(lambda x: x + 4, backend="eager", dynamic=False)
    step(torch.ones(2))
    counter.step()
    counter.close()
    step(torch.ones(3))
    counter.step()
    counter.check()
    assert counter.count() == 1
    assert not torch._dynamo.callback.callback_handler.start_callbacks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x y z\n",
        "1\n",
        "nr_periods\n",
        "nr_periods a\nnr_throttled b\n",
        "0::/\n",
        "\0\0",
        "a b c d e f - \n",
        "9 0\n",
    ],
)
def test_a_meter_takes_any_proc(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(step_meter, "_text", lambda _: text)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text.strip("\0"))
    meter = StepMeter()
    assert list(meter.batches(range(40))) == list(range(40))
    assert meter.report().steps == 39


def test_a_starved_loop_without_counters_of_the_scheduler_has_an_unknown_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_meter, "_text", lambda _: "")
    meter = StepMeter()
    meter._waits, meter._spans = [0.5] * 40, [1.0] * 40
    report = meter.report()
    assert (report.starved, report.limit) == (True, "unknown")
    assert "schedstat" in str(report)


def test_a_wrapped_loader_can_be_copied() -> None:
    wrapped = StepMeter().wrap([1, 2])
    for one in (copy.copy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert (list(one), len(one)) == ([1, 2], 2)
