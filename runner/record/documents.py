"""Reads and validates the result document of a step.

A result must pass four checks in this order: the file (regular, small, UTF-8), JSON (finite numbers only), the shape of
a document, and the declaration of the probe (its metrics, stored units). The output of a known tool (`tools`) is
converted to a document: its JSON between the second and the third check, its printed table instead of them.
"""

import difflib
import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from runner.base.bounds import RESULTS_BYTES
from runner.base.errors import DocumentError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.units import format_bytes
from runner.base.words import label_pairs
from runner.entry.model import Scalar
from runner.record.model import Document, Measurement
from runner.record.tools import text_document, tool_document
from runner.record.writing import results_bytes, stored_bytes
from runner.vocabulary import METRICS, PROBES

MAX_DOCUMENT_BYTES = 4 * 2**20
# Stored size.
LARGEST_DETAILS = 128 * 1024
# For a message that quotes a document.
_LONGEST = 2_000
# May be a lone surrogate.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_document(path: Path, room: int = RESULTS_BYTES) -> Document | None:
    """Read the document of a step; None if it wrote none (no file, or an empty one).

    Details that are too large for a record are replaced by a note; numbers never are.

    Args:
        path: the file that RUNBOOK_RESULT names.
        room: bytes that are left for results in the record.

    Raises:
        DocumentError: the file is invalid, or its numbers do not fit into the record; the message is one line.
    """
    text = _read_text(path)
    if text is None:
        return None
    try:
        document = _document(text, path.name)
        check_against_declaration(document, path.name)
    except DocumentError as error:
        raise DocumentError(" ".join(str(error)[:_LONGEST].split())) from error
    document = document.model_copy(update={"details": _bounded(document.details)})
    size = results_bytes(document)
    if size > room:
        raise DocumentError(
            f"{path.name} needs {size} bytes, but the record has only {format_bytes(max(0, room))} left for results; "
            "report fewer samples or measurements"
        )
    return document


def _document(text: str, name: str) -> Document:
    try:
        if not text.lstrip().startswith(("{", "[")):
            printed = text_document(text, name)
            if printed is not None:
                return printed
        data = parse_json(text, name)
        converted = tool_document(data, name)
    except ValidationError as error:
        raise DocumentError(f"{name} exceeds the limits of a record: {error.errors()[0]['msg']}") from error
    return converted or _shape(text, data, name)


def _bounded(details: dict[str, JsonValue]) -> dict[str, JsonValue]:
    size = stored_bytes(details)
    if size <= LARGEST_DETAILS:
        return details
    return {"left_out": f"{size} bytes of details, more than a record holds"}


def parse_json(text: str, name: str) -> Any:
    """Parse standard JSON: NaN, Infinity and numbers too large for a float are refused.

    Raises:
        DocumentError: not JSON, or a number that is not finite; the message begins with `name`.
    """

    def refuse(constant: str) -> NoReturn:
        raise DocumentError(f"{name} contains {constant}; omit a value that could not be measured")

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise DocumentError(f"{name} contains {number}, which is out of range of a float")
        return value

    try:
        data = json.loads(text, parse_constant=refuse, parse_float=finite)
        if _HALF.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError as error:
        raise DocumentError(f"{name} is nested too deeply to be a document") from error
    except UnicodeEncodeError as error:
        raise DocumentError(f"{name} contains a lone surrogate, which UTF-8 cannot encode") from error
    except ValueError as error:
        raise DocumentError(f"{name} is not JSON: {error}") from error
    return data


def check_against_declaration(document: Document, name: str) -> None:
    """Check every number against what the probe declares: known probe, metric and unit, and no duplicates.

    Raises:
        DocumentError: the first fault found, with the nearest known word; the message begins with `name`.
    """
    info = PROBES.get(document.probe)
    if info is None:
        raise DocumentError(
            f"{name} has the unknown probe {document.probe!r}{_nearest(document.probe, PROBES)}"
        )
    seen: set[tuple[str, tuple[tuple[str, Scalar], ...]]] = set()
    for measurement in document.measurements:
        metric = info.metric(measurement.name)
        if metric is None:
            known = measurement.name in METRICS
            raise DocumentError(
                f"{name} has {measurement.name}, which {document.probe} does not declare"
                if known
                else f"{name} has the unknown metric {measurement.name!r}{_nearest(measurement.name, METRICS)}"
            )
        if measurement.unit != metric.unit:
            raise DocumentError(
                f"{name} has {measurement.name} in {measurement.unit!r}; its stored unit is {metric.unit!r}"
            )
        key = (measurement.name, tuple(sorted(measurement.labels.items())))
        if key in seen:
            raise DocumentError(f"{name} has {_described(measurement)} twice; add a label that differs")
        seen.add(key)


def telling_error(error: ValidationError) -> ErrorDetails:
    """The first fault; for a value with several allowed types, the fault of the best match."""
    found = error.errors(include_url=False, include_input=False)
    place = found[0]["loc"][:-1]
    near = (one for one in found if one["loc"][:-1] == place and not one["type"].endswith("_type"))
    return next(near, found[0])


def _read_text(path: Path) -> str | None:
    try:
        # A block may have replaced the file by a pipe, a device or a link.
        data = read_placed(path, MAX_DOCUMENT_BYTES)
    except PlacedFileError as error:
        if error.kind == "missing":
            return None
        cannot = "cannot be read: " if error.kind == "closed" else ""
        raise DocumentError(f"{path.name} {cannot}{error.why}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path.name} is not UTF-8 (byte {error.start})") from error
    return text if text.strip() else None


def _shape(text: str, data: Any, name: str) -> Document:
    if not isinstance(data, dict):
        raise DocumentError(f"{name} contains a {type(data).__name__}, not a document")
    try:
        # Strict, so that "3" or true is not accepted as a number.
        return Document.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = telling_error(error)
        raise DocumentError(
            _shape_fault(name, data, tuple(first["loc"]), first["type"], first["msg"])
        ) from error


def _shape_fault(
    name: str, data: dict[str, Any], place: tuple[int | str, ...], kind: str, message: str
) -> str:
    if len(place) > 1 and place[0] == "measurements" and isinstance(place[1], int):
        measurement = data["measurements"][place[1]]
        named = measurement.get("name") if isinstance(measurement, dict) else None
        where = f"{name}: measurement {place[1] + 1}" + (f" ({named})" if isinstance(named, str) else "")
        place = place[2:]
    else:
        where = name
    field = ".".join(str(part) for part in place)
    if kind == "missing":
        return f"{where} lacks {'a unit' if field == 'unit' else field}"
    if kind == "extra_forbidden":
        known = (*Document.model_fields, *Measurement.model_fields)
        return f"{where} has the unknown key {field!r}{_nearest(field, known)}"
    return f"{where}: {field}: {message}" if field else f"{where}: {message}"


def _described(measurement: Measurement) -> str:
    labels = label_pairs(measurement.labels)
    return f"{measurement.name} [{labels}]" if labels else measurement.name


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
