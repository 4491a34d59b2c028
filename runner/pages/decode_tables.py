"""Upper limits of decoding on one board, as tables for prose."""

from runner.base.errors import InputError
from runner.base.units import format_value
from runner.hardware.boards import BOARDS
from runner.pages.tables import Table
from runner.sizing.decode import decode_ceiling
from runner.sizing.models import model_shape
from runner.sizing.presets import PRESETS

# Bytes of a weight and of a cached value.
_PRECISIONS = {"bf16": 2.0, "fp8": 1.0}


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
