"""Reads JSON that another program wrote, within the limits that hold for its pickles."""

import json
from typing import NoReturn

from runner.base.errors import InputError
from runner.hang.unpickling import MOST_BYTES, MOST_VALUES, Plain, demand_tree

_AGAIN = "get the dump from its rank again"
_SMALLER = "dump fewer entries (TORCH_FR_BUFFER_SIZE=2000)"


def read_json(data: bytes) -> Plain:
    """The value of a JSON text in UTF-8, with the limits of `read_pickle`.

    Raises:
        InputError: one line; it is truncated or not JSON, holds NaN or Infinity, or exceeds a limit.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"is larger than {MOST_BYTES >> 20} MiB; {_SMALLER}")
    # Each value but the first follows a comma or opens a container, so these bound the values before any is built.
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise InputError(f"holds more than {MOST_VALUES:,} values; {_SMALLER}")
    text = data.decode("utf-8", "replace").removeprefix("\ufeff").strip()
    try:
        value: Plain = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or text[-1:] not in {"}", "]"}:
            raise InputError(
                f"is truncated: it ends in the middle of a value; {_AGAIN}, or leave this rank out"
            ) from error
        raise InputError(
            f"is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); {_AGAIN}"
        ) from error
    except RecursionError as error:
        raise InputError(f"is nested too deeply, as no flight recorder writes it; {_AGAIN}") from error
    except ValueError as error:
        # Python refuses integers of more than 4,300 digits.
        raise InputError(f"holds an integer that is too large; {_AGAIN}") from error
    demand_tree(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise InputError(f"holds {constant}, which is not JSON; {_AGAIN}")
