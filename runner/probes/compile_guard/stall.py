"""The injected stall: a graph pass that never returns. It stands in for a compiler that has hung while busy."""

from typing import Any


def stalled_pass(graph: Any) -> None:
    """Peg one CPU for ever, as a fusion or scheduling pass that does not converge would."""
    turns = len(graph.nodes)
    while True:
        turns = (turns * 31 + 7) % 1_000_003


def inject() -> None:
    """Put the stall into Inductor's passes of this process, through the hook that Inductor has for user passes."""
    import torch._inductor.config as inductor

    inductor.pre_grad_custom_pass = stalled_pass
