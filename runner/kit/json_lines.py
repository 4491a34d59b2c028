"""JSON objects, one a line: how a child reports to its parent, through a file or a socket."""

import json
from collections.abc import Mapping
from typing import Any, BinaryIO


def encoded(message: Mapping[str, object]) -> bytes:
    """One line of the protocol."""
    return json.dumps(message).encode() + b"\n"


def append(file: BinaryIO, message: Mapping[str, object]) -> None:
    """Write a line to a file that another process is reading."""
    file.write(encoded(message))
    file.flush()


def complete(data: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """The messages in the complete lines, and the rest: a writer may be in the middle of a line, or be killed there."""
    *lines, rest = data.split(b"\n")
    return [json.loads(line) for line in lines], rest
