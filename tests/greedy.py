"""When two ways of decoding the same prompt may be called equal."""

from typing import Any

import torch

# Another order of summing moves fp32 logits of these small models by some 1e-5.
TOLERANCE = 1e-4


def assert_same_choices(model: Any, prompt: torch.Tensor, tokens: torch.Tensor) -> None:
    """Token by token what the model itself would choose after all before it.

    A choice may differ only where the logits of the two tokens lie within the tolerance.
    """
    whole = torch.cat([prompt, tokens], dim=1)
    with torch.no_grad():
        logits = model(whole).logits[:, prompt.shape[1] - 1 : -1]
    given = logits.gather(-1, tokens[..., None])[..., 0]
    assert torch.all(logits.amax(-1) - given <= TOLERANCE)
