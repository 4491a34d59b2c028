import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.base.units import (
    STORED_UNITS,
    format_bytes,
    format_duration,
    format_value,
    parse_bytes,
    parse_duration,
    to_stored,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GiB", 2**33), ("256MiB", 2**28), ("1GB", 10**9), ("4096", 4096), ("1.5KiB", 1536)],
)
def test_sizes_are_read_as_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "8 apples", "1.0001KiB", "8GiB/s", "nan", "inf"])
def test_what_is_not_a_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="write bytes as"):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=2**60))
def test_written_bytes_read_back_the_same(value: int) -> None:
    assert parse_bytes(format_bytes(value)) == value


def test_written_units_become_stored_units() -> None:
    assert to_stored(30, "GB/s") == (3e10, "B/s")
    value, unit = to_stored(70, "%")
    assert value == pytest.approx(0.7)
    assert unit == "1"


def test_unknown_unit_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="GB/s"):
        to_stored(1, "furlong")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (8.38e11, "B/s", "838 GB/s"),
        (1.24e-3, "s", "1.24 ms"),
        (15974, "token/s", "15,974 tokens/s"),
        (0.95, "1", "0.950"),
        (18, "1", "18"),
        (2**33, "B", "8.00 GiB"),
        (0.0, "s", "0 s"),
        (None, "B/s", "unmeasured"),
    ],
)
def test_values_are_shown_with_three_digits_and_their_unit(
    value: float | None, unit: str, shown: str
) -> None:
    assert format_value(value, unit) == shown


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(sorted(STORED_UNITS)))
def test_every_finite_value_can_be_shown(value: float, unit: str) -> None:
    assert format_value(value, unit)


@pytest.mark.parametrize("text", ["9" * 5000, "1." + "9" * 5000 + "GiB", "٣GiB²"])
def test_a_size_of_absurd_length_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("written", "seconds", "shown"),
    [
        ("0.4s", 0.4, "0.4 s"),
        ("25s", 25, "25 s"),
        ("1.5m", 90, "90 s"),
        ("5m", 300, "5 min"),
        ("260s", 260, "4 min 20 s"),
        ("1h", 3600, "1 h"),
        (" 1.5h ", 5400, "1 h 30 min"),
    ],
)
def test_a_time_is_read_and_written_as_people_say_it(written: str, seconds: float, shown: str) -> None:
    assert parse_duration(written) == seconds
    assert format_duration(seconds) == shown


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-1s", "5 min", "1h30m", "nan", "infs", "1e9s"])
def test_what_is_no_time_above_zero_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write 90s, 5m or 1h"):
        parse_duration(text)


def test_no_time_is_written_as_none() -> None:
    assert format_duration(0) == "0 s"
