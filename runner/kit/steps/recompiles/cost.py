"""The step of a compiled model with the counter of recompiles, and without it."""

from collections.abc import Iterator
from contextlib import contextmanager

from runner.guards.recompiles import RecompileCounter
from runner.kit.steps.cost import STEP_S
from runner.kit.steps.topic import Arms
from runner.kit.steps.training import SmallTraining


@contextmanager
def run(seed: int) -> Iterator[Arms]:
    """The two arms; the model is compiled with the backend `eager`, so no compiler is needed."""
    import torch

    training = SmallTraining(seed)
    training.calibrate(STEP_S)
    training.model = torch.compile(training.model, backend="eager")
    with RecompileCounter() as counter:
        counter.warm_up(steps=1)
        training.step()
        counter.step()

        def guarded(number: int) -> object:
            loss = training.step(number)
            counter.step()
            return loss

        yield Arms(training.step, guarded)
        # A compile in between would have been timed as a step.
        counter.check()
