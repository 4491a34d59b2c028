"""A small real training step: a Llama with random weights, AdamW, and batches of random tokens."""

from typing import TYPE_CHECKING, Any

from runner.kit.budget import seconds_of
from runner.kit.transformer import build_model
from runner.sizing.models import ModelShape

if TYPE_CHECKING:
    import torch

SHAPE = ModelShape(
    "steps", layers=4, hidden=256, heads=4, kv_heads=2, head_dim=64, ff=704, vocab=2048, max_positions=128
)
"""Large enough that the layers, and not Python, take most of the step."""

_TOKENS = 64
# Passes after which the first compile of kernels, the allocator and the state of the optimizer no longer count.
_WARM = 3


class SmallTraining:
    """A model, its optimizer, and a step that trains it.

    Args:
        seed: of the weights and of the tokens.
        shape: of the model.
        sequences: batch size.
        dtype: of the weights; by default float32 on a CPU and bfloat16 on a GPU.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        shape: ModelShape = SHAPE,
        sequences: int = 1,
        dtype: "torch.dtype | None" = None,
    ) -> None:
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = dtype or (torch.float32 if self.device == "cpu" else torch.bfloat16)
        self.shape, self.sequences = shape, sequences
        self.model: Any = build_model(shape, kind, self.device, seed=seed).requires_grad_(True).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self) -> "torch.Tensor":
        """The next tokens, of shape (sequences, 64), on the device."""
        import torch

        size = (self.sequences, _TOKENS)
        return torch.randint(0, self.shape.vocab, size, generator=self._generator).to(self.device)

    def loss(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """The loss of the next token, a scalar."""
        loss: torch.Tensor = self.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        return loss

    def step(self, _: int = 0) -> "torch.Tensor":
        """Forward, backward and update; returns the loss, on the device."""
        return self.learn(self.batch())

    def learn(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """The same with these tokens, of shape (sequences, 64), on the device."""
        loss = self.loss(tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def calibrate(self, seconds: float, most: int = 256) -> float:
        """Choose the batch size so that a step takes about this long, and warm it up; returns the measured seconds."""
        taken = self._seconds_of_step()
        while taken < seconds and self.sequences < most:
            self.sequences = min(most, max(self.sequences + 1, round(self.sequences * seconds / taken)))
            taken = self._seconds_of_step()
        return taken

    def _seconds_of_step(self) -> float:
        for _ in range(_WARM):
            self.step()
        return min(seconds_of(self.step, self.device) for _ in range(_WARM))
