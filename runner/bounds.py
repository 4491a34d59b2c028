"""How large a record may be, and what stands in its fields: what pages, statistics and readers in other languages bear.

What the runner writes fits (`runner.evidence.store` shortens output, a step with too large a result fails); whatever
does not fit was written by something else and is refused when it is read.
"""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

RECORD_BYTES = 2 * 2**20
# Of the numbers and details of all steps of a run, as they are stored; the rest is for what steps print.
RESULTS_BYTES = 2**20
MEASUREMENTS, SAMPLES, LABELS = 5_000, 5_000, 20
# More than RESULTS_BYTES can hold; resampling them all takes a page half a minute.
SAMPLES_OF_A_RUN = 75_000
LINE_CHARACTERS = 8_000
LABEL_CHARACTERS = 2_000
FACT_CHARACTERS = 2_000
# A double holds every whole number up to here, and JavaScript has no others.
_WHOLE = 2**53
# Far enough from the largest float for the square of one, and for what a plot makes of a range, to be finite.
_LARGEST = 1e100
_LARGEST_S = 366 * 86400.0
_DEPTH = 32

Name = Annotated[str, Field(max_length=2_000)]
"""An id, a class, a preset, a unit."""
Fact = Annotated[str, Field(max_length=FACT_CHARACTERS)]
"""What a machine says of itself."""
Line = Annotated[str, Field(max_length=LINE_CHARACTERS)]
"""A reason, a note, a title."""
Text = Annotated[str, Field(max_length=RECORD_BYTES)]
"""A command, what a step printed."""
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
"""Between these a year more or less is a date too; a node that lost its clock is in 1970."""


def _plain_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Free JSON without what JSON has not, what no reader can hold, and depths that a stack may not bear."""
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
            raise ValueError("holds a whole number of more than 64 bits")
    return value


PlainJson = Annotated[dict[str, JsonValue], AfterValidator(_plain_json)]
"""Free JSON: finite numbers, whole ones of 64 bits, 32 levels."""
