"""What the vote costs: a training step with one and without. Ranks are not waited for: there is one process."""

from collections.abc import Iterator
from contextlib import contextmanager

from runner.guards.sdc_vote import SdcVote
from runner.kit.steps.cost import STEP_S
from runner.kit.steps.topic import Arms
from runner.kit.steps.training import SmallTraining


@contextmanager
def run(seed: int) -> Iterator[Arms]:
    """The arms: the guarded one votes in every step, which `Topic.every` spreads."""
    import torch

    training = SmallTraining(seed)
    training.calibrate(STEP_S)
    vote = SdcVote(torch.device(training.device), every=1)
    vote()

    def guarded(number: int) -> object:
        return training.step(number), vote(number)

    yield Arms(bare=training.step, guarded=guarded)
