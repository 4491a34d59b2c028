"""The faults of the topic `nonfinite` in a training: what makes them, what the guard names, what becomes of weights."""

import math
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.guards.census import weights_census
from runner.guards.nonfinite import NonFiniteGuard, Place
from runner.kit.probe import single
from runner.kit.steps.nonfinite.drilled import Drilled
from runner.kit.steps.nonfinite.loop import CLIP, GuardedTraining, changed, healthy_losses, spoiled, state_of

if TYPE_CHECKING:
    import torch

# Healthy steps before the fault, so that the optimizer has a state, and after it.
_BEFORE, _AFTER = 3, 2
SAMPLE = Place("input", "")
"""What a bad sample is named as."""

# A weight of 0.02 times this is far below the largest of fp16, 65,504; a logit, a sum of 64 products, is far above.
_GROWTH = 2.0**20
_TYPES = ("float16", "bfloat16")


def drill_healthy(steps: int) -> Callable[[int, str], Drilled]:
    """Steps without a fault: plain ones, with masks of -inf, under autocast, and evaluations between them."""

    def drill(seed: int, fault: str) -> Drilled:
        import torch

        training = GuardedTraining(seed)
        losses = healthy_losses(training)
        with NonFiniteGuard(training.model) as guard:
            for _ in range(steps):
                training.guarded(guard, next(losses))
                with torch.no_grad():
                    training.model.eval()(input_ids=training.batch(), use_cache=False)
                training.model.train()
        count = len(training.found)
        sentence = str(training.found[0]) if count else "nothing was found"
        return Drilled(
            fault, named=False, findings=count, steps=steps, sentence=f"{steps} healthy steps: {sentence}"
        )

    return drill


def drill_overflow(seed: int, fault: str) -> Drilled:
    """Grow the last weight: its product overflows in fp16, and the same weights give a finite loss in bf16."""
    import torch

    measurements, named, findings = [], True, 0
    words = []
    for word in _TYPES:
        training = GuardedTraining(seed, getattr(torch, word))
        tokens = training.batch()
        healthy = training.loss(tokens).item()
        with torch.no_grad():
            training.model.lm_head.weight.mul_(_GROWTH)
        grown = training.loss(tokens).item()
        with NonFiniteGuard(training.model) as guard:
            training.guarded(guard)
        findings += len(training.found)
        place = training.found[0].place if training.found else None
        expected = Place("output", "lm_head") if word == "float16" else None
        named = named and place == expected
        measurements.append(single("finite_loss", int(math.isfinite(grown)), fault=fault, dtype=word))
        if math.isfinite(grown):
            measurements.append(single("loss_growth", grown / healthy, fault=fault, dtype=word))
        words.append(f"{word}: loss {healthy:.3g} becomes {grown:.4g}, {place or 'nothing'} is named")
    return Drilled(
        fault, named=named, findings=findings, steps=len(_TYPES), sentence="; ".join(words),
        measurements=tuple(measurements),
    )  # fmt: skip


def drill_bad_sample(seed: int, fault: str) -> Drilled:
    """Put a NaN into what the model gets, as a sample of continuous features can have it."""
    training = GuardedTraining(seed)
    return _skipped(training, fault, SAMPLE, bad_sample(training))


def bad_sample(training: GuardedTraining) -> "Callable[[torch.Tensor], torch.Tensor]":
    """The loss of a sample whose features have a NaN."""
    spoils = spoiled(float("nan"), training.random)

    def loss_of(tokens: "torch.Tensor") -> "torch.Tensor":
        features = training.model.get_input_embeddings().weight.detach()[tokens]
        loss: torch.Tensor = training.model(
            inputs_embeds=spoils(features), labels=tokens, use_cache=False
        ).loss
        return loss

    return loss_of


def drill_gradient(value: float) -> Callable[[int, str], Drilled]:
    """Put a NaN or an infinity into the gradient of one weight; then clip and step without the guard."""

    def drill(seed: int, fault: str) -> Drilled:
        training = GuardedTraining(seed)
        switch = GradientSwitch(training, value)
        drilled = _skipped(training, fault, switch.place, switch=switch)
        with switch:
            unguarded(training)
        poisoned, total = training.poisoned(), sum(1 for _ in training.model.parameters())
        return replace(
            drilled,
            sentence=f"{drilled.sentence}; clipped and not guarded, {poisoned} of {total} parameters are not finite",
            measurements=(
                *drilled.measurements,
                single("poisoned_weights", poisoned, fault=fault, update="clipped"),
            ),
        )

    return drill


def drill_poisoned_save(seed: int, fault: str) -> Drilled:
    """Save after a step with a NaN: as a loop without a guard does, and as one does that asks for the census."""
    import torch

    training = GuardedTraining(seed)
    switch = GradientSwitch(training, float("nan"))
    drilled = _skipped(training, fault, switch.place, switch=switch)
    with switch:
        unguarded(training)
    saved = {}
    with tempfile.TemporaryDirectory(prefix="nonfinite-") as folder:
        for kind in ("plain", "census"):
            path = Path(folder) / f"{kind}.pt"
            if kind == "plain" or not weights_census(training.model):
                torch.save(training.model.state_dict(), path)
            saved[kind] = path.exists() and is_poisoned(torch.load(path, weights_only=True))
    return replace(
        drilled,
        sentence=f"{drilled.sentence}; the checkpoint written is poisoned: {saved}",
        measurements=(
            *drilled.measurements,
            *(
                single("poisoned_saves", int(poisoned), fault=fault, save=kind)
                for kind, poisoned in saved.items()
            ),
        ),
    )


def unguarded(training: GuardedTraining) -> None:
    """One step as a loop without a guard runs it: clip, update."""
    import torch

    training.loss(training.batch()).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(training.model.parameters(), CLIP)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)


class GradientSwitch:
    """While entered, one place of the gradient of one weight is spoiled. Made before a guard, which sees the result."""

    def __init__(self, training: GuardedTraining, value: float) -> None:
        name, module = training.linear()
        spoils = spoiled(value, training.random)
        self.place, self._on = Place("gradient of weight", name), False
        module.weight.register_hook(lambda gradient: spoils(gradient) if self._on else gradient)

    def __enter__(self) -> None:
        self._on = True

    def __exit__(self, *_: object) -> None:
        self._on = False


def is_poisoned(weights: "dict[str, torch.Tensor]") -> bool:
    """Whether a checkpoint has a NaN or an infinity."""
    import torch

    return any(not torch.isfinite(one).all() for one in weights.values())


def _skipped(
    training: GuardedTraining,
    fault: str,
    expected: Place,
    loss_of: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
    switch: AbstractContextManager[None] | None = None,
) -> Drilled:
    """Healthy steps, the step with the fault, and healthy ones again, all under the guard."""
    with NonFiniteGuard(training.model) as guard:
        for _ in range(_BEFORE):
            training.guarded(guard)
        before = state_of(training.model, training.optimizer)
        with switch or nullcontext():
            training.guarded(guard, loss_of)
        differ = changed(before, state_of(training.model, training.optimizer))
        for _ in range(_AFTER):
            training.guarded(guard)
    found = training.found
    return Drilled(
        fault,
        named=[(one.step, one.place) for one in found] == [(_BEFORE, expected)],
        findings=len(found),
        steps=_BEFORE + 1 + _AFTER,
        sentence=f"injected in {expected}; found in {found[0] if found else 'nothing'}",
        measurements=(single("changed_by_skip", differ, fault=fault),),
    )
