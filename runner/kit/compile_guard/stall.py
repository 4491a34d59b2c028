"""The injected stall: a graph pass that never returns. It simulates a compiler that hangs with a busy CPU."""

from typing import Any


def stalled_pass(graph: Any) -> None:
    """Keep one CPU busy forever, like a fusion or scheduling pass that does not converge."""
    turns = len(graph.nodes)
    while True:
        turns = (turns * 31 + 7) % 1_000_003


def inject() -> None:
    """Add the stall to Inductor's passes in this process, through Inductor's hook for custom passes."""
    import torch._inductor.config as inductor

    inductor.pre_grad_custom_pass = stalled_pass
