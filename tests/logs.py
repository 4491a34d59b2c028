"""Logs for tests of signatures."""

from collections.abc import Iterable, Iterator


def log_of(lines: Iterable[str]) -> Iterator[bytes]:
    """A log of these lines, in chunks of one line each."""
    return (line.encode() + b"\n" for line in lines)
