"""What the readers of tools' output share: numbers, measurements, refusals, and the prefix of each line."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from runner.base.errors import DocumentError
from runner.entry.model import Scalar
from runner.record.model import Measurement
from runner.vocabulary import METRICS

GIGA, MICRO = 1e9, 1e-6
NO_VALUE = "N/A"
# Larger values are not measurements, and a unit conversion could overflow.
_LARGEST = 1e20


def finite(value: Any) -> float | None:
    """A number, or a number as text, as a float; None for anything else: booleans, NaN, values out of range."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < _LARGEST else None


def one_number(metric: str, value: float, labels: Mapping[str, Scalar]) -> Measurement:
    """One number in the metric's unit."""
    unit = METRICS[metric].unit
    return Measurement(name=metric, labels=dict(labels), value=value, unit=unit, statistic="single")


def numbered(measurements: Iterable[Measurement]) -> Iterator[Measurement]:
    """The measurements; those that occur several times with the same labels get the label `run`, from 1."""
    found = [(one, (one.name, *sorted(one.labels.items()))) for one in measurements]
    count = Counter(key for _, key in found)
    seen: Counter[tuple[object, ...]] = Counter()
    for one, key in found:
        seen[key] += 1
        yield one.model_copy(update={"labels": {**one.labels, "run": seen[key]}}) if count[key] > 1 else one


def without_prefix(lines: Iterable[str], prefix: str) -> Iterator[str]:
    """Lines without the prefix that a launcher puts before each, such as `0: ` (srun) or `[1,0]<stdout>:` (mpirun)."""
    short = prefix.rstrip()
    for line in lines:
        rest = line.removeprefix(prefix)
        # An editor drops the space at the end of an empty line, or puts a tab for several.
        if rest == line and short and not line.removeprefix(short)[:1].strip():
            rest = line.removeprefix(short)
        yield rest if short else line


def refuse(name: str, what: str) -> NoReturn:
    """Refuse a file, in one line.

    Raises:
        DocumentError: always.
    """
    raise DocumentError(f"{name}: {what}")
