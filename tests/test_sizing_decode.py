import pytest

from runner.base.errors import InputError
from runner.hardware.boards import BOARDS, board_named
from runner.pages.computed import decode_ceilings
from runner.sizing.limits import bytes_per_step, decode_ceiling
from runner.sizing.models import ModelShape, model_shape

SMALL = ModelShape("small", 2, 8, 2, 1, 4, 16, 100, 64)


def test_a_step_reads_every_weight_but_the_embedding_and_each_sequences_cache() -> None:
    block = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16 + 2 * 8
    weights = 2 * block + 100 * 8 + 8
    for batch in (1, 3):
        rows, cache = batch * 8, 2 * 2 * 1 * 4 * 10 * batch
        assert bytes_per_step(SMALL, 2, 10, batch) == 2 * (weights + rows + cache)


def test_a_ceiling_is_bandwidth_over_bytes_and_grows_less_than_the_batch() -> None:
    shape, b200 = model_shape("8b"), board_named("B200")
    assert b200 is not None
    one = decode_ceiling(shape, b200, 2, 2048)
    assert one is not None
    assert one == pytest.approx(7.672e12 / bytes_per_step(shape, 2, 2048), rel=1e-4)
    # 7.5e9 weights of two bytes: what 7.7 TB/s can read some 510 times a second.
    assert one == pytest.approx(505, rel=0.03)
    many = decode_ceiling(shape, b200, 2, 2048, 8)
    assert many is not None
    assert one * 6 < many < one * 8


def test_what_does_not_fit_has_no_ceiling() -> None:
    boards = {board.name: board for board in BOARDS}
    assert decode_ceiling(model_shape("70b"), boards["H100"], 2, 2048) is None
    assert decode_ceiling(model_shape("70b"), boards["B200"], 2, 2048) is not None


def test_the_table_has_every_large_preset_in_each_precision_and_every_board() -> None:
    table = decode_ceilings()
    assert table.head == ("", "H100", "H100-PCIe", "H100-NVL", "H200", "B200", "B300")
    assert [row[0] for row in table.rows] == [
        f"{preset}, {precision}" for preset in ("8b", "40b", "70b") for precision in ("bf16", "fp8")
    ]
    assert table.rows[4][1] == "does not fit"
    with pytest.raises(InputError, match="must be greater than zero, not 0 and 1"):
        decode_ceilings(0)
