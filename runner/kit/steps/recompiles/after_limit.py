"""What a forward takes once its function has reached the recompile limit, against the same forward compiled."""

import types
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

from runner.base.errors import RunbookError
from runner.guards.recompiles import RecompileCounter
from runner.hardware.prerequisites import missing_to_compile
from runner.kit.budget import budget, seconds_of
from runner.kit.interleaved import Rounds, interleaved, paired_ratios
from runner.kit.probe import Findings, NotApplicableError, measured, say
from runner.kit.steps.recompiles.declared import AFTER_LIMIT
from runner.kit.transformer import build_model
from runner.sizing.models import ModelShape

if TYPE_CHECKING:
    import torch

_SHAPE = ModelShape(
    "after-limit",
    layers=2,
    hidden=256,
    heads=4,
    kv_heads=2,
    head_dim=64,
    ff=704,
    vocab=2048,
    max_positions=256,
)
_FIRST, _OTHER = 64, 96
_DEFAULT_S, _PAIRS, _FEWEST = 240.0, 24, 6


def time_after_limit(seed: int) -> Findings:
    """Compile one forward for any length, let another reach a limit of one graph, and time both at the same length.

    Raises:
        NotApplicableError: Inductor cannot compile on this host.
        RunbookError: the limit was not reached, or the other forward was not compiled.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    if missing := missing_to_compile(gpu=on_gpu):
        raise NotApplicableError(missing.reason)
    within = budget(_DEFAULT_S)
    device = "cuda" if on_gpu else "cpu"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = build_model(_SHAPE, dtype, device, seed=seed)

    def forward(tokens: "torch.Tensor") -> Any:
        return model(input_ids=tokens, use_cache=False).logits

    tokens = {length: _tokens(length, device) for length in (_FIRST, _OTHER)}
    torch._dynamo.reset()  # noqa: SLF001 - the documented way to begin anew
    with torch.no_grad(), RecompileCounter() as counter:
        limited = torch.compile(_copy(forward, "limited"), dynamic=False)
        # What follows the limit does not depend on its height, so one graph, and not eight, has to be compiled.
        with torch._dynamo.config.patch(recompile_limit=1):  # noqa: SLF001
            limited(tokens[_FIRST])
            limited(tokens[_OTHER])
        compiled = torch.compile(_copy(forward, "compiled"), dynamic=False)
        compiled(tokens[_OTHER])
        if counter.count("gave up") != 1 or counter.count("compile", "recompile") != 2:  # noqa: PLR2004
            raise RunbookError(f"expected one function at the limit and two graphs, saw {counter.events}")
        counter.step()
        arms = {
            "limited": lambda _: seconds_of(lambda: limited(tokens[_OTHER]), device),
            "compiled": lambda _: seconds_of(lambda: compiled(tokens[_OTHER]), device),
        }
        interleaved(arms, Rounds(2, within))
        taken = interleaved(arms, Rounds(_PAIRS, within, fewest=_FEWEST))
        if counter.step():
            raise RunbookError("something was compiled while the forwards were timed")
    ratios = paired_ratios(taken["limited"], taken["compiled"])
    sentence = f"after the limit a forward takes {median(ratios):.2f} times as long as compiled"
    say(sentence)
    return Findings(
        measurements=[measured("limited_over_compiled", ratios, fault=AFTER_LIMIT, cause=AFTER_LIMIT)],
        status="symptom",
        reason=f"a function reached the limit: {sentence}",
        requested={"fault": AFTER_LIMIT, "model": _SHAPE.name, "tokens": _OTHER},
        effective={"device": device, "backend": "inductor"},
    )


def _tokens(length: int, device: str) -> "torch.Tensor":
    import torch

    drawn = torch.randint(0, _SHAPE.vocab, (1, length), generator=torch.Generator().manual_seed(length))
    return drawn.to(device)


def _copy(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function with code of its own: graphs and limits belong to a code object."""
    code = function.__code__.replace(co_name=name)
    return types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
