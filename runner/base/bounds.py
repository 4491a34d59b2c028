"""Limits on the size of a record and on its field values, set by what pages, statistics and JSON readers can handle.

Records that the runner writes always fit (`runner.record.store` shortens output, and a step with too large a result
fails). A record that does not fit was written by another program and is refused when it is read.
"""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

RECORD_BYTES = 2 * 2**20
# Stored size of the numbers and details of all steps of a run; the remainder is for step output.
RESULTS_BYTES = 2**20
MEASUREMENTS, SAMPLES, LABELS = 5_000, 5_000, 20
# More samples than RESULTS_BYTES can hold; resampling this many takes a page about 30 s.
SAMPLES_OF_A_RUN = 75_000
LINE_CHARACTERS = 8_000
LABEL_CHARACTERS = 2_000
FACT_CHARACTERS = 2_000
# A double represents every integer up to this value exactly; JavaScript has no other number type.
_WHOLE = 2**53
# Small enough that its square, and any range that a plot computes from it, stays finite.
_LARGEST = 1e100
_LARGEST_S = 366 * 86400.0
_DEPTH = 32

Name = Annotated[str, Field(max_length=2_000)]
"""An id, a class, a preset, a unit."""
Fact = Annotated[str, Field(max_length=FACT_CHARACTERS)]
"""A fact that the machine reports about itself."""
Line = Annotated[str, Field(max_length=LINE_CHARACTERS)]
"""A reason, a note, a title."""
Text = Annotated[str, Field(max_length=RECORD_BYTES)]
"""A command, or the output of a step."""
Integer = Annotated[int, Field(ge=-_WHOLE, le=_WHOLE)]
Count = Annotated[int, Field(ge=0, le=_WHOLE)]
ExitStatus = Annotated[int, Field(ge=-(2**31), le=2**32)]
Seconds = Annotated[float, Field(ge=-_LARGEST_S, le=_LARGEST_S, allow_inf_nan=False)]
Reading = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
"""A measured number in its stored unit."""
Label = (
    bool
    | Integer
    | Annotated[float, Field(ge=-_WHOLE, le=_WHOLE, allow_inf_nan=False)]
    | Annotated[str, Field(max_length=LABEL_CHARACTERS)]
)
"""A label of a measurement. A whole number that a double cannot hold exactly is refused, not rounded."""

FIRST_MOMENT, LAST_MOMENT = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""A valid date stays valid when a year is added or subtracted. A node that lost its clock reports 1970."""


def _plain_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Check free-form JSON: no NaN or Infinity, no integer over 64 bits, no nesting deeper than `_DEPTH`."""
    waiting: list[tuple[object, int]] = [(value, 0)] if value else []
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, dict | list):
            if depth > _DEPTH:
                raise ValueError(f"is nested more than {_DEPTH} deep")
            inside = found.values() if isinstance(found, dict) else found
            waiting += [(one, depth + 1) for one in inside]
        elif isinstance(found, float):
            if not abs(found) < float("inf"):
                raise ValueError("holds NaN or Infinity, which JSON does not allow")
        elif isinstance(found, int) and not -(2**63) <= found < 2**64:
            raise ValueError("holds an integer of more than 64 bits")
    return value


PlainJson = Annotated[dict[str, JsonValue], AfterValidator(_plain_json)]
"""Free-form JSON: finite numbers, integers of at most 64 bits, at most 32 levels of nesting."""
