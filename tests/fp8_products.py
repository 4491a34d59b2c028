"""Which FP8 product a test's probes multiply with, whatever this CPU would choose."""

from collections.abc import Iterator

import pytest
import torch

from runner.kit.precision import product


@pytest.fixture
def fp8_in_fp32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a CPU whose own FP8 product is refused."""
    monkeypatch.setattr(product, "why_not_native", lambda _: "torch._scaled_mm fails on this CPU (no kernel)")
    product.fp8_product.cache_clear()
    yield
    product.fp8_product.cache_clear()


@pytest.fixture
def fp8_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The FP8 product of torch itself, however slow it is on this CPU; where it is refused the test is skipped."""
    factor, one = torch.ones(16, 16).to(torch.float8_e4m3fn), torch.ones(())
    try:
        product.native(factor, factor.t(), one, one, torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"this CPU has no FP8 product of torch's own: {error}")
    monkeypatch.setattr(product, "why_not_native", lambda _: None)
    product.fp8_product.cache_clear()
    yield
    product.fp8_product.cache_clear()
