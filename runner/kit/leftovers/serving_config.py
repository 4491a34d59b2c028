"""Tensor-parallel sizes in a server's configuration file: sharding that environment variables do not show.

Supported are the keys of vLLM (`tensor-parallel-size`), SGLang (`tp-size`), TGI (`num-shard`) and TensorRT-LLM
(`tensor_parallel_size`, `tp_size`), at any depth of a YAML or JSON file, and the flags of the same names in command
lines within such a file.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from runner.base.bounded_yaml import BoundedLoader
from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed

_KEYS = frozenset(
    {
        "tensor_parallel_size",
        "tensor_parallel",
        "tensor_model_parallel_size",
        "pipeline_parallel_size",
        "tp_size",
        "pp_size",
        "tp",
        "num_shard",
    }
)
_MOST_BYTES = 1 << 20
_FLAG = re.compile(r"--([a-z][a-z_-]*)(?:[ =]\s*(\d{1,6})\b)?")


@dataclass(frozen=True)
class ShardSize:
    """A size above one: its line (from 1), its key, its value."""

    line: int
    key: str
    value: int


def parallel_sizes(text: str) -> list[ShardSize]:
    """Sizes above one in the text of a configuration file, in the order of its lines.

    Raises:
        InputError: it is neither YAML nor JSON; the message has the line.
    """
    try:
        documents = list(yaml.compose_all(text, BoundedLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"line {line}: neither YAML nor JSON ({error.problem})") from error
    except RecursionError as error:
        raise InputError("nested too deeply for a configuration file") from error
    # A plain ValueError: an escape or a version number that the YAML reader accepts and Python does not.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(f"neither YAML nor JSON ({str(error).partition(chr(10))[0]})") from error
    found = [size for document in documents if document is not None for size in _sizes(document)]
    return sorted((size for size in found if size.value > 1), key=lambda size: size.line)


def _sizes(document: yaml.Node) -> Iterator[ShardSize]:
    """Every size below a node. An alias refers to a node that was visited, possibly to an ancestor."""
    waiting, seen = [document], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield from _pair(key, value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
            for item, following in itertools.pairwise(node.value):
                if isinstance(item, yaml.ScalarNode) and item.value.startswith("--"):
                    yield from _pair(item, following)
        elif isinstance(node, yaml.ScalarNode):
            yield from _flags(node)


def _flags(node: yaml.ScalarNode) -> Iterator[ShardSize]:
    line, counted = node.start_mark.line + 1, 0
    for match in _FLAG.finditer(node.value):
        if match[2] and _named(match[1]):
            line += node.value.count("\n", counted, match.start())
            counted = match.start()
            yield ShardSize(line, f"--{match[1]}", int(match[2]))


def _pair(key: yaml.Node, value: yaml.Node) -> Iterator[ShardSize]:
    if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
        return
    if _named(key.value) and re.fullmatch(r"\d{1,6}", value.value):
        yield ShardSize(value.start_mark.line + 1, key.value, int(value.value))


def _named(key: str) -> bool:
    return key.lstrip("-").replace("-", "_").lower() in _KEYS


def read_sizes(path: Path) -> list[ShardSize]:
    """The sizes above one in a file.

    Raises:
        InputError: it cannot be read, or is neither YAML nor JSON.
    """
    try:
        return parallel_sizes(read_placed(path, _MOST_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: not UTF-8 text") from error
    except PlacedFileError as error:
        raise InputError(f"cannot read {path}: {error.why}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
