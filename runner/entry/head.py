"""Parses the YAML head of a runbook, with the line of every key and with limits on size and nesting."""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from runner.base.bounded_yaml import BoundedLoader, FastBoundedLoader
from runner.base.errors import Fault, RunbookFaultsError
from runner.base.words import nearest
from runner.entry.model import FrontMatter

DEEPEST = 8

Place = tuple[str | int, ...]


_BOOL = "tag:yaml.org,2002:bool"


class _Rules:
    """The rules of a head: no aliases, no deeper than the model, and only true and false are booleans."""

    deepest, most_nodes, aliases = DEEPEST, 5_000, False
    # YAML 1.1 also reads `on`, `off`, `yes` and `no` as booleans; here `on:` is a key.
    yaml_implicit_resolvers: ClassVar = {
        first: [
            (tag, re.compile("(?:true|false)$") if tag == _BOOL else pattern)
            for tag, pattern in resolvers
            if tag != _BOOL or first in "tf"
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Loader(_Rules, BoundedLoader):
    """The loader whose messages are shown."""


class _FastLoader(_Rules, FastBoundedLoader):
    """The loader for a head without faults."""


def parse_head(text: str, first_line: int, path: Path) -> FrontMatter:
    """Parse and validate a head.

    Args:
        text: the YAML between the `---` lines.
        first_line: the line of the file on which `text` begins.
        path: the file, for messages.

    Raises:
        RunbookFaultsError: every fault of the head, each with its line.
    """
    node, lines = _compose(text, first_line, path)
    loader = _Loader("")
    try:
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise RunbookFaultsError((_yaml_fault(error, first_line, path),)) from error
    except ValueError as error:
        raise RunbookFaultsError((Fault(path, first_line, f"a value cannot be read: {error}"),)) from error
    except (LookupError, AttributeError) as error:
        # PyYAML relies on its patterns; an explicit tag, such as `!!bool maybe`, bypasses them.
        message = "a value does not fit its YAML tag (!!…); remove the tag"
        raise RunbookFaultsError((Fault(path, first_line, message),)) from error
    try:
        return FrontMatter.model_validate(data)
    except ValidationError as error:
        raise RunbookFaultsError(tuple(_faults(error, lines, first_line, path))) from error


def key_lines(text: str, first_line: int, path: Path) -> Mapping[Place, int]:
    """The line of every key and list item: `("expectations", 0, "min")` → 17."""
    return _compose(text, first_line, path)[1]


# Both parsing and the line lookup need the composed head; it is composed once.
@functools.lru_cache(maxsize=1)
def _compose(text: str, first_line: int, path: Path) -> tuple[yaml.MappingNode, dict[Place, int]]:
    for number, line in enumerate(text.split("\n"), start=first_line):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise RunbookFaultsError(
                (Fault(path, number, "this line is indented with a tab; YAML requires spaces"),)
            )
    try:
        node = _node(text)
    except yaml.MarkedYAMLError as error:
        raise RunbookFaultsError((_yaml_fault(error, first_line, path),)) from error
    # A plain ValueError: an escape or a version number that the YAML parser accepts and Python does not.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        message = str(error).partition("\n")[0]
        raise RunbookFaultsError(
            (Fault(path, first_line, f"the front matter is not YAML: {message}"),)
        ) from error
    if not isinstance(node, yaml.MappingNode):
        raise RunbookFaultsError(
            (
                Fault(
                    path,
                    first_line,
                    "the front matter is empty or not a mapping; it needs id, number and title",
                ),
            )
        )
    lines: dict[Place, int] = {}
    faults = list(_walk(node, (), first_line, lines, path))
    if faults:
        raise RunbookFaultsError(tuple(faults))
    return node, lines


def _node(text: str) -> yaml.Node | None:
    with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError):
        return _FastLoader(text).get_single_node()
    return _Loader(text).get_single_node()


def _walk(
    node: yaml.Node, place: Place, first_line: int, lines: dict[Place, int], path: Path
) -> Iterator[Fault]:
    """Record the line of every key and item below a node; duplicate keys are faults."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, str(key.value))
            line = key.start_mark.line + first_line
            if here in lines:
                yield Fault(path, line, f"duplicate key {key.value!r}; the first is on line {lines[here]}")
            lines[here] = line
            yield from _walk(value, here, first_line, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*place, index] = item.start_mark.line + first_line
            yield from _walk(item, (*place, index), first_line, lines, path)


def _yaml_fault(error: yaml.MarkedYAMLError, first_line: int, path: Path) -> Fault:
    mark = error.problem_mark or error.context_mark
    line = first_line + (mark.line if mark else 0)
    return Fault(path, line, f"the front matter is not YAML: {error.problem or error.context}")


def _faults(
    error: ValidationError, lines: Mapping[Place, int], first_line: int, path: Path
) -> Iterator[Fault]:
    for problem in error.errors():
        place: Place = tuple(problem["loc"])
        line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), first_line)
        where = ".".join(str(part) for part in place)
        if problem["type"] == "extra_forbidden":
            known = _fields_at(FrontMatter, place[:-1])
            message = f"unknown key {place[-1]!r}{nearest(str(place[-1]), known)}"
        elif problem["type"] == "missing":
            message = f"{where} is missing"
        elif problem["type"] == "enum":
            values = re.findall(r"'([^']+)'", str(problem.get("ctx", {}).get("expected", "")))
            message = f"{where}: unknown value {problem['input']!r}{nearest(str(problem['input']), values)}"
        else:
            message = f"{where}: {problem['msg'].removeprefix('Value error, ')}" if where else problem["msg"]
        yield Fault(path, line, message)


def _fields_at(model: type[BaseModel], place: Place) -> tuple[str, ...]:
    """The field names of the model at a place in the head."""
    current: Any = model
    for part in place:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        found = _model_in(field.annotation) if field else None
        if found is None:
            return ()
        current = found
    return tuple(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {tuple, list, dict, Union, UnionType}:
        return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
    return None
