"""A job that meets several faults and goes on: each is named, its step changes nothing, the checkpoint is finite."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from runner.base.errors import InputError
from runner.guards.census import weights_census
from runner.guards.nonfinite import NonFiniteGuard
from runner.kit.probe import single
from runner.kit.steps.nonfinite.drilled import Drilled
from runner.kit.steps.nonfinite.faults import SAMPLE, GradientSwitch, bad_sample, is_poisoned
from runner.kit.steps.nonfinite.loop import GuardedTraining, changed, state_of

_FAULTS = 3


def drill_survived(steps: int) -> Callable[[int, str], Drilled]:
    """Steps of which three have a fault: a NaN and an infinity in gradients, and a bad sample. Healthy if all is well.

    Raises:
        InputError: fewer steps than faults and a healthy one at each end.
    """
    if steps < _FAULTS + 2:
        raise InputError(f"--steps must be at least {_FAULTS + 2} for three faults, not {steps}")

    def drill(seed: int, fault: str) -> Drilled:
        import torch

        training = GuardedTraining(seed)
        switches = [GradientSwitch(training, float(value)) for value in ("nan", "inf")]
        sample = bad_sample(training)
        places = [*(one.place for one in switches), SAMPLE]
        plan = dict(zip(training.random.sample(range(1, steps - 1), _FAULTS), range(_FAULTS), strict=True))
        differ = 0
        with NonFiniteGuard(training.model) as guard:
            for step in range(steps):
                kind = plan.get(step)
                before = [] if kind is None else state_of(training.model, training.optimizer)
                with switches[kind] if kind is not None and kind < len(switches) else nullcontext():
                    training.guarded(guard, sample if kind == len(switches) else None)
                if kind is not None:
                    differ += changed(before, state_of(training.model, training.optimizer))
        named = {one.step: one.place for one in training.found} == {
            step: places[kind] for step, kind in plan.items()
        }
        with tempfile.TemporaryDirectory(prefix="nonfinite-") as folder:
            path = Path(folder) / "checkpoint.pt"
            saved = not weights_census(training.model)
            if saved:
                torch.save(training.model.state_dict(), path)
            poisoned = saved and is_poisoned(torch.load(path, weights_only=True))
        well = named and saved and not differ and not poisoned
        return Drilled(
            fault,
            named=named,
            findings=len(training.found),
            steps=steps,
            sentence=(
                f"{_FAULTS} faults in {steps} steps: {'all' if named else 'not all'} named, {differ} tensors changed by"
                f" skipped steps, the checkpoint is {'finite' if saved and not poisoned else 'not finite'}"
            ),
            measurements=(
                single("changed_by_skip", differ, fault=fault),
                single("poisoned_weights", training.poisoned(), fault=fault, update="skipped"),
                single("poisoned_saves", int(poisoned), fault=fault, save="census"),
            ),
            sick=not well,
        )

    return drill
