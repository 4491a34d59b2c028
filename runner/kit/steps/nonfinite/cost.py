"""The cost of the guard: a step as a loop without it takes, and the same step with its hooks and its check."""

import contextlib
from collections.abc import Iterator

from runner.guards.nonfinite import NonFiniteGuard, skip_step
from runner.kit.steps.cost import STEP_S
from runner.kit.steps.topic import Arms
from runner.kit.steps.training import SmallTraining
from runner.sizing.models import ModelShape

# One wide layer, so that a step of this length has as many modules, and as much arithmetic for a value that the guard
# reads, as a step of a job.
_SHAPE = ModelShape(
    "steps", layers=1, hidden=512, heads=8, kv_heads=4, head_dim=64, ff=1408, vocab=512, max_positions=128
)


@contextlib.contextmanager
def run(seed: int) -> Iterator[Arms]:
    """Two trainings of the same kind: a model without hooks, and one with the guard."""
    bare, guarded = SmallTraining(seed, shape=_SHAPE), SmallTraining(seed, shape=_SHAPE)
    bare.calibrate(STEP_S)
    guarded.sequences = bare.sequences
    with NonFiniteGuard(guarded.model) as guard:

        def step(_: int) -> None:
            guard.watch(guarded.loss(guarded.batch())).backward()  # type: ignore[no-untyped-call]
            if guard.check():
                skip_step(guarded.optimizer)
            guarded.optimizer.step()
            guarded.optimizer.zero_grad(set_to_none=True)

        yield Arms(bare.step, step)
