"""The counter of recompiles in real compiled code: what it names, and what it leaves alone."""

import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runner.guards.recompiles import RecompileCounter, RecompiledError

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _a_clean_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Scaled(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Counts its calls in an int, which is guarded on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return self.linear(x) * self.calls


def test_after_warm_up_a_recompile_fails_with_function_place_and_guard() -> None:
    step = torch.compile(Scaled(), backend="eager")
    with RecompileCounter() as counter:
        counter.warm_up(steps=2)
        for _ in range(3):
            step(torch.ones(2, 6))
            counter.step()
        with pytest.raises(RecompiledError) as failed:
            counter.check()
    message = str(failed.value)
    assert message.startswith("step 2: forward (")
    assert "test_recompiles.py:" in message
    assert "self.calls == 1" in message
    assert "\n" not in message


def test_the_first_recompile_to_dynamic_shapes_passes_within_warm_up_and_no_size_recompiles_later() -> None:
    step = torch.compile(torch.nn.Linear(6, 6), backend="aot_eager")
    with RecompileCounter() as counter:
        counter.warm_up(steps=2)
        for size in range(3, 40):
            step(torch.ones(size, 6)).sum().backward()
            counter.step()
        counter.check()
    # A dynamic graph may have had its backward compiled with its forward.
    forward = [one for one in counter.events if one.kind != "backward"]
    assert [one.kind for one in forward] == ["compile", "recompile"]
    assert "size mismatch" in forward[1].reason
    assert counter.count("backward") >= 1


def test_a_function_that_reached_the_limit_fails_also_if_that_was_in_warm_up() -> None:
    step = torch.compile(Scaled(), backend="eager")
    with RecompileCounter() as counter:
        counter.warm_up(steps=20)
        for _ in range(30):
            step(torch.ones(2, 6))
            counter.step()
        assert counter.count("compile", "recompile") == torch._dynamo.config.recompile_limit
        assert counter.count("gave up") == 1
        assert counter.count(after_warm_up=True) == 0
        with pytest.raises(RecompiledError, match="reached the recompile limit"):
            counter.check()


def test_with_fullgraph_the_limit_is_counted_before_torch_raises_its_own_error() -> None:
    step = torch.compile(Scaled(), backend="eager", fullgraph=True)
    with RecompileCounter() as counter:
        for _ in range(torch._dynamo.config.recompile_limit):
            step(torch.ones(2, 6))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            step(torch.ones(2, 6))
        assert counter.count("gave up") == 1


@pytest.mark.system
def test_seventy_functions_of_one_step_are_all_counted_though_torch_keeps_64_records() -> None:
    def made(number: int) -> Callable[[Any], Any]:
        space: dict[str, Any] = {}
        exec(f"def function_{number}(x): return x * {number}", space)
        found: Callable[[Any], Any] = torch.compile(space[f"function_{number}"], backend="eager")
        return found

    functions = [made(number) for number in range(70)]
    with RecompileCounter() as counter:
        for one in functions:
            one(torch.ones(2))
        assert {one.frame for one in counter.events} == {f"function_{number}" for number in range(70)}
        assert len(counter.step()) == 70


def test_a_reset_of_the_compiler_between_steps_does_not_blind_the_counter() -> None:
    step = torch.compile(torch.nn.Linear(6, 6), backend="eager")
    with RecompileCounter() as counter:
        step(torch.ones(2, 6))
        counter.step()
        torch._dynamo.reset()
        torch._dynamo.utils.clear_compilation_metrics()
        counter.step()
        step(torch.ones(2, 6))
        assert [one.kind for one in counter.step()] == ["compile"]


def test_graph_breaks_are_counted_with_their_line_and_fail_where_asked() -> None:
    def branching(x: Any) -> Any:
        y = x * 2
        return y + 1 if y.sum() > 0 else y

    step = torch.compile(branching, backend="eager")
    with RecompileCounter() as counter:
        counter.warm_up(steps=1)
        step(torch.ones(3))
        counter.step()
        counter.check()
        (broken,) = (one for one in counter.events if one.kind == "graph break")
        assert broken.frame == "branching"
        assert broken.reason.startswith("branch on the value of a tensor")
        with pytest.raises(RecompiledError, match=r"branching \(.*test_recompiles\.py:\d+\) broke the graph"):
            counter.check(graph_breaks=True)


def test_an_evaluation_that_is_announced_may_compile_and_one_that_is_not_fails() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU())
    step = torch.compile(model, backend="eager")
    with RecompileCounter() as counter:
        with counter.warm_up(steps=1):
            step(torch.ones(2, 6))
        counter.step()
        with counter.warm_up(), torch.no_grad():
            step(torch.ones(2, 6))
        counter.step()
        counter.check()
        with torch.inference_mode():
            step(torch.ones(2, 6))
        with pytest.raises(RecompiledError, match="was compiled"):
            counter.check()


def test_a_model_that_was_never_compiled_does_not_pass() -> None:
    with RecompileCounter() as counter:
        torch.nn.Linear(6, 6)(torch.ones(2, 6))
        counter.step()
        with pytest.raises(RecompiledError, match="nothing was compiled"):
            counter.check()
        counter.check(compiled=False)


def test_what_was_compiled_before_the_counter_began_is_not_counted() -> None:
    step = torch.compile(torch.nn.Linear(6, 6), backend="eager")
    step(torch.ones(2, 6))
    with RecompileCounter() as counter:
        step(torch.ones(2, 6))
        counter.step()
        counter.check(compiled=False)
        assert counter.events == ()


def test_a_recording_of_a_cuda_graph_is_counted_by_the_callback_that_torch_calls_for_it() -> None:
    callback = importlib.import_module("torch._dynamo.callback")
    with RecompileCounter() as counter:
        with callback.callback_handler.install_callbacks(callback.CallbackTrigger.CUDAGRAPH_RECORDING, "0/0"):
            pass
        assert [one.kind for one in counter.step()] == ["cuda graph"]
        with pytest.raises(RecompiledError, match="recorded a CUDA graph"):
            counter.check()


def test_the_counter_leaves_options_loggers_and_callbacks_as_they_were() -> None:
    handler = importlib.import_module("torch._dynamo.callback").callback_handler

    def state() -> object:
        loggers = {
            name: (one.level, one.propagate, list(one.handlers), list(one.filters))
            for name, one in logging.root.manager.loggerDict.items()
            if isinstance(one, logging.Logger) and name.startswith("torch")
        }
        artifacts = set(torch._logging._internal.log_state.artifact_names)
        options = torch._dynamo.config.get_config_copy()
        return loggers, artifacts, options, list(handler.start_callbacks)

    torch.compile(torch.nn.Linear(6, 6), backend="eager")(torch.ones(2, 6))
    before = state()
    with RecompileCounter() as counter:
        during = state()
        torch.compile(Scaled(), backend="eager")(torch.ones(2, 6))
        counter.step()
    assert state() == before
    assert during[:3] == before[:3]  # type: ignore[index]
