"""Units: the stored ones (seconds, bytes, and so on), those a runbook may write, and those a page shows."""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from runner.base.errors import InputError

# Units that a record may hold. `1` is the unit of a ratio or a count.
STORED_UNITS = frozenset(
    {"1", "s", "B", "B/s", "FLOP/s", "token/s", "token/J", "J/token", "J", "W", "Hz", "degC", "dB"}
)

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}

# Written unit -> (factor to the stored unit, stored unit).
_WRITTEN: Mapping[str, tuple[float, str]] = MappingProxyType(
    {unit: (1.0, unit) for unit in STORED_UNITS}
    | {"%": (0.01, "1"), "ms": (1e-3, "s"), "us": (1e-6, "s"), "min": (60.0, "s"), "h": (3600.0, "s")}
    | {name: (float(factor), "B") for name, factor in (_BINARY | _DECIMAL).items()}
    | {f"{name}/s": (float(factor), "B/s") for name, factor in (_BINARY | _DECIMAL).items()}
    | {"GFLOP/s": (1e9, "FLOP/s"), "TFLOP/s": (1e12, "FLOP/s"), "MHz": (1e6, "Hz"), "GHz": (1e9, "Hz")}
    | {"tokens/s": (1.0, "token/s"), "tokens/J": (1.0, "token/J"), "J/tokens": (1.0, "J/token")}
    | {"mJ": (1e-3, "J"), "kJ": (1e3, "J"), "mW": (1e-3, "W"), "kW": (1e3, "W")}
)

_QUANTITY = re.compile(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-z%/]+)?\s*")


def known_units() -> frozenset[str]:
    """Every unit that a runbook may write."""
    return frozenset(_WRITTEN)


def to_stored(value: float, unit: str) -> tuple[float, str]:
    """Convert a written value to its stored unit: `(30, "GB/s")` gives `(3e10, "B/s")`.

    Raises:
        InputError: the unit is not known.
    """
    if unit not in _WRITTEN:
        raise InputError(f"unknown unit {unit!r}; use one of {', '.join(sorted(_WRITTEN))}")
    factor, stored = _WRITTEN[unit]
    return value * factor, stored


def parse_bytes(text: str) -> int:
    """Read a size such as `8GiB`, `256MiB`, `1GB` or `4096` as bytes.

    Raises:
        InputError: not a size.
    """
    match = _QUANTITY.fullmatch(text)
    if match:
        factor, stored = _WRITTEN.get(match[2] or "B", (0.0, ""))
        # A fraction, since a float loses bytes above 2**53.
        value = Fraction(match[1]) * int(factor)
        if stored == "B" and value.denominator == 1:
            return int(value)
    raise InputError(f"{text!r} is not a size; write bytes as 4096, 256MiB or 8GiB")


def format_bytes(value: int) -> str:
    """Write bytes as in a runbook, with the largest binary unit that divides them: 268435456 is `256MiB`."""
    for unit, factor in reversed(_BINARY.items()):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return f"{value}B"


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
# A year: anything longer is a typing error.
_LONGEST_S = 365 * 86400.0
_IN_MINUTES_S = 120
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Read a time such as `90s`, `5m` or `1.5h` as seconds.

    Raises:
        InputError: not a time above zero, or more than a year.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds > _LONGEST_S:
        raise InputError(f"{text[:50]!r} is more than a year; write 90s, 5m or 1h")
    if not seconds > 0:
        raise InputError(f"{text[:50]!r} is not a time above zero; write 90s, 5m or 1h")
    return seconds


def format_duration(seconds: float) -> str:
    """Write a time for a reader: `0.4 s`, `25 s`, `4 min 20 s`, `1 h 30 min`."""
    if 0 < seconds < 1:
        return f"{seconds:.1g} s"
    minutes, rest = divmod(round(seconds), 60)
    if seconds < _IN_MINUTES_S:
        return f"{round(seconds)} s"
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def _significant(value: float, digits: int = 3) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text and decimals > digits else text


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for factor, unit in steps:
        if abs(value) >= factor or value == 0:
            return f"{_significant(value / factor)} {unit}"
    factor, unit = steps[-1]
    return f"{_significant(value / factor)} {unit}"


_SHOWN: Mapping[str, tuple[tuple[float, str], ...]] = MappingProxyType(
    {
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "B": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
        "B/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")),
        "FLOP/s": ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")),
        "Hz": ((1e9, "GHz"), (1e6, "MHz")),
    }
)
_PLURAL: Mapping[str, str] = MappingProxyType({"token/s": "tokens/s", "token/J": "tokens/J", "degC": "°C"})


def format_value(value: float | None, unit: str) -> str:
    """Show a stored value to a reader with three significant digits: `(8.38e11, "B/s")` is `838 GB/s`.

    `None` is shown as `unmeasured`, never as a blank or zero.
    """
    if value is None:
        return "unmeasured"
    if unit in _SHOWN:
        return _scaled(value, _SHOWN[unit])
    if unit == "1":
        return f"{value:,.0f}" if float(value).is_integer() else _significant(value)
    return f"{_significant(value)} {_PLURAL.get(unit, unit)}"


def scale_of(value: float, unit: str) -> tuple[float, str]:
    """The unit in which `format_value` shows this value: how many stored units it is, and its name (empty for `1`)."""
    if unit in _SHOWN:
        steps = _SHOWN[unit]
        return next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return 1.0, "" if unit == "1" else _PLURAL.get(unit, unit)
