from pathlib import Path

import pytest

from runner.base.units import format_value
from runner.hardware.boards import board_named
from runner.pages.calls import find_calls
from runner.pages.computed import memory_plan
from runner.pages.prose import NAMES
from runner.sizing.limits import board_budget, footprint
from runner.sizing.models import model_shape
from runner.sizing.remedies import first_remedy
from runner.sizing.work import ModelWork

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_row_is_the_arithmetic_of_its_length(mode: str) -> None:
    board, shape = board_named("H100"), model_shape("8b")
    assert board is not None
    table = memory_plan("8b", "H100", [2048, 65536], tensor_parallel=2, batch=4, mode=mode)
    assert len({len(row) for row in (table.head, *table.rows)}) == 1
    short, long = table.rows
    training = "adamw" if mode == "training" else None
    for tokens, row in ((2048, short), (65536, long)):
        work = ModelWork(tokens, batch=4, tensor_parallel=2, training="adamw" if training else None)
        found, budget = footprint(shape, work), board_budget(board)
        assert row[0] == f"{tokens:,}"
        assert row[1] == format_value(found.weights, "B")
        assert row[5] == format_value(found.total, "B")
        left = budget - found.total
        if left >= 0:
            assert row[6:] == (format_value(left, "B"), "none needed")
        else:
            remedy = first_remedy(shape, work, budget)
            named = f"{remedy.name} ({remedy.flags})" if remedy else "none is enough"
            assert row[6:] == (f"{format_value(-left, 'B')} short", named)


def test_the_faqs_48_gib_stand_in_the_plan_of_the_40b_shape() -> None:
    (row,) = memory_plan("40b", "B200", [32768]).rows
    assert row[2] == "48.0 GiB"


def test_the_playbook_leaves_no_cell_to_be_filled_by_hand() -> None:
    text = (ROOT / "kb" / "guides" / "long_context_playbook.md").read_text(encoding="utf-8")
    calls = [call.name for call in find_calls(text, NAMES)]
    assert calls.count("memory_plan") == 4
    assert calls.count("measured_table") == 5
    assert "pending" not in text.lower()
    assert "tbd" not in text.lower()
