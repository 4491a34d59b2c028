"""Activation checkpointing of a model's blocks, in the three forms that `--activation-checkpointing` names."""

from functools import partial
from typing import Any

from runner.sizing.work import Checkpointing


class Checkpointed:
    """Wraps the blocks of a transformers model once; `mode` can be changed between runs.

    `full` keeps the input of a block and recomputes the block in the backward. `selective` also keeps the results of
    GEMMs and of the attention kernel, which are the most expensive to recompute. Without gradients nothing is kept in
    either form.
    """

    def __init__(self, model: Any) -> None:
        self.mode: Checkpointing = "none"
        self._contexts = partial(_contexts, _costly())
        for layer in model.model.layers:
            layer.forward = partial(self._block, layer.forward)

    def _block(self, forward: Any, *arguments: Any, **named: Any) -> Any:
        from torch.utils.checkpoint import checkpoint

        if self.mode == "none":
            return forward(*arguments, **named)
        chosen: dict[str, Any] = {"context_fn": self._contexts} if self.mode == "selective" else {}
        return checkpoint(
            forward, *arguments, use_reentrant=False, preserve_rng_state=False, **chosen, **named
        )


def _contexts(costly: frozenset[Any]) -> Any:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    def policy(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operator in costly else CheckpointPolicy.PREFER_RECOMPUTE

    make: Any = create_selective_checkpoint_contexts
    return make(policy)


def _costly() -> frozenset[Any]:
    """GEMMs with weights, and every attention kernel that does not materialize its scores."""
    import torch

    aten = torch.ops.aten
    return frozenset(
        {
            aten.mm.default,
            aten.addmm.default,
            aten._scaled_dot_product_flash_attention_for_cpu.default,  # noqa: SLF001 - operators by their names
            aten._scaled_dot_product_flash_attention.default,  # noqa: SLF001
            aten._scaled_dot_product_efficient_attention.default,  # noqa: SLF001
            aten._scaled_dot_product_cudnn_attention.default,  # noqa: SLF001
        }
    )
