"""What the guard asks of its child, in a form that JSON can carry across."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from runner.errors import InputError

Builder = Callable[..., tuple[Any, tuple[Any, ...]]]
"""A top-level function that returns `(module, inputs)`: an `nn.Module` on its device and the arguments of forward."""


class Mode(StrEnum):
    """How a model is compiled: one rung of the ladder.

    `one-thread` is by block where the model repeats blocks, else whole, and without Inductor's pool of workers.
    """

    WHOLE = "whole"
    PER_BLOCK = "per-block"
    ONE_THREAD = "one-thread"
    EAGER = "eager"


class Stall(StrEnum):
    """A stall injected into Inductor, for drills: it pegs one CPU and never ends by itself.

    `every-graph` stalls any compile, so only eager is left; `whole-model` stalls the first rung alone.
    """

    EVERY_GRAPH = "every-graph"
    WHOLE_MODEL = "whole-model"

    def hits(self, mode: Mode) -> bool:
        """Whether this stall is in the way of a compile in that mode."""
        return mode is Mode.WHOLE or (mode is not Mode.EAGER and self is Stall.EVERY_GRAPH)


@dataclass(frozen=True)
class Spec:
    """One compile in a child.

    Attributes:
        builder: `module:function`, or `/path/file.py:function` where the caller is a script.
        arguments: keyword arguments of the builder, in JSON.
        mode: the rung.
        stall: whether Inductor is made to stall.
        search: the caller's `sys.path`, so that the child finds what the caller found.
        backward: whether the answer is one with gradients.
        alone: whether the repeated blocks are compiled by themselves, the rest of the model never getting memory.
        memory_bytes: how much more address space the child may take once torch is imported; None for no limit.
    """

    builder: str
    arguments: Mapping[str, Any]
    mode: str
    stall: bool
    search: tuple[str, ...]
    backward: bool = False
    alone: bool = False
    memory_bytes: int | None = None

    def write(self, path: Path) -> None:
        """Write the spec for the child.

        Raises:
            InputError: the builder's arguments are not JSON.
        """
        try:
            text = json.dumps(asdict(self), sort_keys=True)
        except TypeError as error:
            raise InputError(
                f"the builder's arguments must be JSON ({error}); pass names and sizes"
            ) from error
        path.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Spec":
        """Read a spec that `write` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**(fields | {"search": tuple(fields["search"])}))


def reference(builder: Builder) -> str:
    """Name a builder so that another process can import it.

    Raises:
        InputError: a lambda, a method or a nested function: nothing that another process could import.
    """
    name, module = getattr(builder, "__qualname__", ""), getattr(builder, "__module__", "")
    if not name.isidentifier() or not module:
        raise InputError(f"{name or builder!r} cannot be imported by the child; pass a top-level function")
    if module != "__main__":
        return f"{module}:{name}"
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        raise InputError(f"{name} was typed at a prompt; the child needs it in a file")
    return f"{Path(script).resolve()}:{name}"


def resolve(name: str) -> Builder:
    """Import the builder that `reference` named."""
    place, _, function = name.rpartition(":")
    if place.endswith(".py"):
        # Not `__main__`: the script's own `if __name__ == "__main__"` must not run again in the child.
        found = importlib.util.spec_from_file_location("guarded_script", place)
        if found is None or found.loader is None:
            raise ImportError(f"cannot load {place}")
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        found.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    builder: Builder = getattr(module, function)
    return builder
