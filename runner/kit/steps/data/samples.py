"""A data set whose samples cost a known time, and a loader for it. The cost comes from the step that they feed."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_TRIAL = 20_000
_TRIALS = 5


@dataclass(frozen=True)
class CostlySamples:
    """Sequences of 64 random tokens, as a map-style data set.

    Attributes:
        vocab: tokens are below it.
        additions: of whole numbers for each sample, which take time of a core.
        sleep_s: seconds that each sample waits, as for remote storage.
        count: samples in all.
    """

    vocab: int
    additions: int = 0
    sleep_s: float = 0.0
    count: int = 1 << 20

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> "torch.Tensor":
        """Sample `index`, of shape (64,)."""
        import torch

        compute(self.additions)
        if self.sleep_s:
            time.sleep(self.sleep_s)
        return torch.randint(0, self.vocab, (64,), generator=torch.Generator().manual_seed(index))


def compute(additions: int) -> int:
    """Add whole numbers in Python; returns the sum."""
    total = 0
    for number in range(additions):
        total += number & 7
    return total


def additions_for(seconds: float) -> int:
    """How many additions take this much time of a core here. A busy machine does not change it."""

    def one() -> float:
        began = time.thread_time()
        compute(_TRIAL)
        return max(time.thread_time() - began, 1e-7)

    return max(1, round(_TRIAL * seconds / min(one() for _ in range(_TRIALS))))


def loader_of(samples: CostlySamples, batch: int, workers: int) -> Any:
    """A DataLoader with this batch size and so many worker processes."""
    from torch.utils.data import DataLoader

    # It asks only for __len__ and __getitem__.
    return DataLoader(samples, batch_size=batch, num_workers=workers)  # type: ignore[arg-type]
