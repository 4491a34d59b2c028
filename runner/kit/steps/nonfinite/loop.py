"""A small training with the guard in it, places at which faults are put, and what is compared after a skipped step."""

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from runner.guards.nonfinite import NonFinite, NonFiniteGuard, skip_step
from runner.kit.steps.training import SmallTraining
from runner.sizing.models import ModelShape

if TYPE_CHECKING:
    import torch

SMALL = ModelShape(
    "steps", layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ff=176, vocab=512, max_positions=128
)
"""Small, so that a thousand steps take seconds."""

# Below the loss's usual gradient norm, so that clipping does something.
CLIP = 0.1


class GuardedTraining(SmallTraining):
    """A training whose every step is checked, and skipped if something was found.

    Args:
        seed: of weights, tokens and places.
        dtype: of the weights; None: float32 on a CPU and bfloat16 on a GPU.
    """

    def __init__(self, seed: int, dtype: "torch.dtype | None" = None) -> None:
        super().__init__(seed, shape=SMALL, dtype=dtype)
        self.random = random.Random(seed)  # noqa: S311 - a choice that can be repeated, not a secret
        self.found: list[NonFinite] = []

    def linear(self) -> tuple[str, Any]:
        """One of the linear layers of a block, by the seed, with its qualified name."""
        import torch

        names = [
            name
            for name, one in self.model.named_modules()
            if isinstance(one, torch.nn.Linear) and ".layers." in name
        ]
        name = self.random.choice(names)
        return name, self.model.get_submodule(name)

    def guarded(
        self, guard: NonFiniteGuard, loss_of: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    ) -> None:
        """One step as a job runs it, with a loss of another kind if one is given; what the guard finds is kept."""
        guard.watch((loss_of or self.loss)(self.batch())).backward()  # type: ignore[no-untyped-call]
        found = guard.check()
        if found:
            self.found.append(found)
            skip_step(self.optimizer)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def poisoned(self) -> int:
        """How many parameters have a NaN or an infinity."""
        import torch

        return sum(not torch.isfinite(one).all() for one in self.model.parameters())


def state_of(model: Any, optimizer: "torch.optim.Optimizer") -> list["torch.Tensor"]:
    """Copies of all weights, and of what the optimizer keeps; of shards, the own."""
    import torch

    kept = [one for state in optimizer.state.values() for one in state.values()]
    tensors = [*model.parameters(), *(one for one in kept if isinstance(one, torch.Tensor))]
    return [(one.to_local() if hasattr(one, "to_local") else one).detach().clone() for one in tensors]


def changed(before: list["torch.Tensor"], after: list["torch.Tensor"]) -> int:
    """Tensors that differ in a bit."""
    import torch

    pairs = zip(before, after, strict=True)
    return sum(not torch.equal(*(each.reshape(-1).view(torch.uint8) for each in pair)) for pair in pairs)


def spoiled(value: float, generator: random.Random) -> "Callable[[torch.Tensor], torch.Tensor]":
    """What puts a value at one place of a copy of a tensor."""

    def spoils(tensor: "torch.Tensor") -> "torch.Tensor":
        copy = tensor.clone()
        copy.view(-1)[generator.randrange(copy.numel())] = value
        return copy

    return spoils


def healthy_losses(training: GuardedTraining) -> "Iterator[Callable[[torch.Tensor], torch.Tensor]]":
    """Losses of healthy steps in turn: as it is, with a mask of -inf, and under autocast."""
    import torch

    def masked(tokens: "torch.Tensor") -> "torch.Tensor":
        size = tokens.shape[1]
        mask = torch.full((size, size), float("-inf"), device=tokens.device, dtype=training.model.dtype).triu(
            1
        )
        output = training.model(
            input_ids=tokens, labels=tokens, attention_mask=mask[None, None], use_cache=False
        )
        loss: torch.Tensor = output.loss
        return loss

    def autocast(tokens: "torch.Tensor") -> "torch.Tensor":
        with torch.autocast(training.device, torch.bfloat16):
            return training.loss(tokens)

    while True:
        yield from (training.loss, masked, autocast)
