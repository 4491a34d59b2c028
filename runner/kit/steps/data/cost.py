"""The same step with a loader, and with the same loader in the meter."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from runner.guards.step_meter import StepMeter
from runner.kit.steps.cost import STEP_S
from runner.kit.steps.data.samples import CostlySamples, loader_of
from runner.kit.steps.topic import Arms
from runner.kit.steps.training import SmallTraining


@contextlib.contextmanager
def run(seed: int) -> Iterator[Arms]:
    """The two arms; their loaders end with the context."""
    training = SmallTraining(seed)
    training.calibrate(STEP_S)
    samples = CostlySamples(training.shape.vocab)
    plain = iter(loader_of(samples, training.sequences, 1))
    metered = StepMeter().batches(loader_of(samples, training.sequences, 1))

    def step(batches: Iterator[Any]) -> Callable[[int], object]:
        return lambda _: training.learn(next(batches).to(training.device))

    with contextlib.closing(metered):  # type: ignore[type-var]
        yield Arms(bare=step(plain), guarded=step(metered))
