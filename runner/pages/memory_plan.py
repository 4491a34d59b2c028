"""The memory plan as a table for prose: the same arithmetic as the probe's `--plan`. Pure."""

from collections.abc import Sequence

from runner.base.errors import InputError
from runner.base.units import format_value
from runner.hardware.boards import BOARDS, board_named
from runner.pages.tables import Table
from runner.sizing import Work, board_budget, first_remedy, footprint, longest
from runner.sizing.models import ModelShape, model_shape
from runner.sizing.presets import PRESETS

_MODES = ("inference", "training")


def memory_plan(
    model: str,
    board: str,
    lengths: Sequence[int],
    tensor_parallel: int = 1,
    batch: int = 1,
    mode: str = "inference",
) -> Table:
    """Memory of each length on one GPU, what remains, and the first remedy if nothing does.

    Args:
        model: a preset.
        board: by its short name, `B200`.
        lengths: in tokens.
        tensor_parallel: GPUs that share the model.
        batch: sequences at once.
        mode: `inference`, all logits of the prompt kept; or `training`, with AdamW.

    Raises:
        InputError: an argument out of range.
    """
    shape, budget = _known(model, board, lengths, tensor_parallel, batch, mode)
    rows = []
    for tokens in lengths:
        work = Work(
            tokens,
            batch,
            tensor_parallel=tensor_parallel,
            training="adamw" if mode == "training" else None,
        )
        found = footprint(shape, work)
        left = budget - found.total
        remedy = first_remedy(shape, work, budget) if left < 0 else None
        beside = found.kv_cache if mode == "inference" else found.optimizer + found.gradients
        parts = (found.weights, beside, found.activations, found.logits, found.total)
        rows.append(
            (
                f"{tokens:,}",
                *(format_value(part, "B") for part in parts),
                format_value(left, "B") if left >= 0 else f"{format_value(-left, 'B')} short",
                f"{remedy.name} ({remedy.flags})"
                if remedy
                else "none needed"
                if left >= 0
                else "none is enough",
            )
        )
    most = longest(shape, work, budget)
    beside_name = "KV cache" if mode == "inference" else "gradients, optimizer"
    return Table(
        caption=f"{mode} of {model} on {tensor_parallel} × {board}, batch {batch}: at most {most:,} tokens",
        head=(
            "tokens",
            "weights",
            beside_name,
            "activations",
            "at the logits",
            "peak",
            "headroom",
            "first remedy",
        ),
        rows=tuple(rows),
    )


def _known(
    model: str, board: str, lengths: Sequence[int], tensor_parallel: int, batch: int, mode: str
) -> tuple[ModelShape, int]:
    found = board_named(str(board))
    if found is None:
        raise InputError(
            f"memory_plan: no board {board!r}; use one of {', '.join(one.name for one in BOARDS)}"
        )
    if model not in PRESETS:
        raise InputError(f"memory_plan: no preset {model!r}; use one of {', '.join(PRESETS)}")
    if mode not in _MODES:
        raise InputError(f"memory_plan: no mode {mode!r}; use one of {', '.join(_MODES)}")
    shape = model_shape(model)
    if not isinstance(lengths, list | tuple) or not all(
        type(one) is int for one in (*lengths, tensor_parallel, batch)
    ):
        raise InputError(
            "memory_plan: lengths is a list of whole numbers, tensor_parallel and batch are whole numbers"
        )
    if tensor_parallel < 1 or shape.heads % tensor_parallel or batch < 1:
        raise InputError(f"memory_plan: {model} cannot run over {tensor_parallel} GPUs at batch {batch}")
    if not lengths or not all(1 < tokens <= shape.max_positions for tokens in lengths):
        raise InputError(f"memory_plan: lengths of {model} are 2 to {shape.max_positions} tokens")
    return shape, board_budget(found)
