"""Tables that prose asks for by name and that are computed: peaks of boards, ceilings, memory plans. Pure."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from runner.base.errors import InputError
from runner.base.units import format_value
from runner.hardware.boards import BOARDS, board_named
from runner.pages.node_actions import prolog_findings
from runner.pages.tables import Table
from runner.sizing.limits import board_budget, decode_ceiling, footprint, longest
from runner.sizing.models import ModelShape, model_shape
from runner.sizing.presets import PRESETS
from runner.sizing.remedies import first_remedy
from runner.sizing.work import ModelWork

# Bytes of a weight and of a cached value.
_PRECISIONS = {"bf16": 2.0, "fp8": 1.0}
_MODES = ("inference", "training")


def board_peaks() -> Table:
    """What boards can do at most, with the source of each number."""
    return Table(
        caption="Peaks of known boards",
        head=("", "memory bandwidth", "NVLink, each way", "dense BF16", "dense FP8", "power", "source"),
        rows=tuple(
            (
                board.name,
                format_value(board.memory_bandwidth, "B/s"),
                f"{board.nvlinks} × {format_value(board.nvlink_bandwidth, 'B/s')}",
                format_value(board.peak_bf16, "FLOP/s"),
                format_value(board.peak_fp8, "FLOP/s"),
                format_value(board.max_power_w, "W"),
                f"memory: {board.memory_source}; the rest: {board.source}",
            )
            for board in BOARDS
        ),
    )


def decode_ceilings(context: int = 2048, batch: int = 1) -> Table:
    """Upper limit of tokens per second on one board, for each preset, precision and board.

    Raises:
        InputError: no tokens in the cache, or no sequence.
    """
    if context < 1 or batch < 1:
        raise InputError(f"context and batch must be greater than zero, not {context} and {batch}")
    rows = []
    for shape in map(model_shape, PRESETS[1:]):
        for precision, element in _PRECISIONS.items():
            ceilings = [decode_ceiling(shape, board, element, context, batch) for board in BOARDS]
            cells = ["does not fit" if one is None else format_value(one, "token/s") for one in ceilings]
            rows.append((f"{shape.name}, {precision}", *cells))
    return Table(
        caption=f"Ceilings of decoding at batch {batch} with {context} tokens of context",
        head=("", *(board.name for board in BOARDS)),
        rows=tuple(rows),
    )


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
        work = ModelWork(
            tokens, batch, tensor_parallel=tensor_parallel, training="adamw" if mode == "training" else None
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


# By the name that prose calls them by. A function takes plain values and returns a Table; what it cannot use it refuses
# with an InputError. To add one: write it above and its line here.
COMPUTED: Mapping[str, Callable[..., Table]] = MappingProxyType(
    {
        "board_peaks": board_peaks,
        "decode_ceilings": decode_ceilings,
        "memory_plan": memory_plan,
        "prolog_findings": prolog_findings,
    }
)
