"""How memory grows with the prompt, from measurements, and the longest prompt that fits according to it."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from runner.base.stats import quadratic_fit
from runner.sizing.limits import MARGIN

_FEWEST_LENGTHS = 3
# A quadratic term below this share of the growth is noise of the fit.
_NO_TERM = 0.05


@dataclass(frozen=True)
class MemoryGrowth:
    """Peak bytes ≈ constant + linear × tokens + quadratic × tokens².

    Attributes:
        quadratic_share: share of the quadratic term in the growth from 0 tokens to the longest measured prompt.
    """

    constant: float
    linear: float
    quadratic: float
    quadratic_share: float

    @property
    def is_quadratic(self) -> bool:
        """Whether the quadratic term is more than noise of the fit."""
        return self.quadratic_share > _NO_TERM

    def at(self, tokens: int) -> float:
        """The peak in bytes at a length."""
        return self.constant + self.linear * tokens + self.quadratic * tokens * tokens

    def longest(self, budget: int, most: int, margin: float = MARGIN) -> int:
        """Tokens that fit, up to `most`, with a share `margin` of the growing part left free; 0 if none do."""
        allowed = budget - margin * (budget - self.constant)
        return bisect_right(range(1, most + 1), allowed, key=self.at)


def fit_growth(peaks: Mapping[int, int]) -> MemoryGrowth | None:
    """The growth of peaks (tokens → bytes); None with fewer than three lengths, or if peaks do not grow."""
    if len(peaks) < _FEWEST_LENGTHS or peaks[max(peaks)] <= peaks[min(peaks)]:
        return None
    constant, linear, quadratic = quadratic_fit(sorted(peaks.items()))
    far = max(peaks)
    grown = linear * far + quadratic * far * far
    return MemoryGrowth(constant, linear, quadratic, quadratic * far * far / grown if grown > 0 else 0.0)
