"""What a lie about a record is: it takes the JSON and returns a falsified copy, or None where it has no place."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

Json = dict[str, Any]
Lie = Callable[[Json], Json | None]

LIES: dict[str, Lie] = {}


class NoPlaceError(Exception):
    """The record holds nothing that this lie could be told about."""


def lie(change: Callable[[Json], Json | None]) -> Callable[[Json], Json | None]:
    """List a lie under its function's name; it changes a copy in place, or returns another one."""

    def told(record: Json) -> Json | None:
        copy = deepcopy(record)
        try:
            result = change(copy) or copy
        except NoPlaceError:
            return None
        return None if result == record else result

    LIES[change.__name__.removeprefix("_")] = told
    return told


def a_step(record: Json, **wanted: Any) -> Json:
    """The last step with these values; `numbers=True` for one that measured."""
    for step in reversed(record["steps"]):
        numbers = wanted.get("numbers")
        if numbers is not None and bool(step["measurements"]) != numbers:
            continue
        if all(step[key] == value for key, value in wanted.items() if key != "numbers"):
            return dict_of(step)
    raise NoPlaceError


def dict_of(value: Any) -> Json:
    assert isinstance(value, dict)
    return value


def numbers(record: Json, *, samples: int = 0, **wanted: Any) -> Iterator[tuple[Json, Json]]:
    """Steps with those of their measurements that have so many samples and these values."""
    for step in record["steps"]:
        for one in step["measurements"]:
            if len(one["samples"]) >= samples and all(one[key] == value for key, value in wanted.items()):
                yield step, one


def a_number(record: Json, *, samples: int = 0, **wanted: Any) -> Json:
    return a_number_of(record, samples=samples, **wanted)[1]


def a_number_of(record: Json, *, samples: int = 0, **wanted: Any) -> tuple[Json, Json]:
    found = next(numbers(record, samples=samples, **wanted), None)
    if found is None:
        raise NoPlaceError
    return found


def retell(step: Json) -> None:
    """Let the output of a step tell the same as its falsified numbers do."""
    before, _, last = step["stdout_tail"].rstrip().rpartition("\n")
    try:
        said = json.loads(last)
    except ValueError as error:
        raise NoPlaceError from error
    for name in said.keys() & step.keys() - {"status", "reason"}:
        said[name] = step[name]
    step["stdout_tail"] = f"{before}\n{json.dumps(said)}\n".lstrip("\n")
