"""The guard's instructions for its child, as JSON."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from runner.base.errors import InputError

Builder = Callable[..., tuple[Any, tuple[Any, ...]]]
"""A top-level function that returns `(module, inputs)`: an `nn.Module` on its device, and the inputs of forward."""


@dataclass(frozen=True)
class Task:
    """What a child is to do: names and sizes, which are passed to it as JSON."""

    def write(self, path: Path) -> None:
        """Write it for the child.

        Raises:
            InputError: the builder's arguments are not JSON.
        """
        try:
            text = json.dumps(asdict(self), sort_keys=True)
        except TypeError as error:
            raise InputError(
                f"the builder's arguments must be JSON ({error}); pass only names and sizes"
            ) from error
        path.write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        )


@dataclass(frozen=True)
class Spec(Task):
    """One compile in a child.

    Attributes:
        builder: `module:function`, or `/path/file.py:function` if the caller is a script.
        arguments: keyword arguments of the builder, as JSON.
        mode: the rung.
        stall: whether a stall is injected into Inductor.
        search: the caller's `sys.path`, so that the child finds the same modules.
        backward: whether gradients are computed.
        alone: whether only the repeated blocks are compiled, and the rest of the model is never allocated.
        memory_bytes: additional address space that the child may use after importing torch; None for no limit.
    """

    builder: str
    arguments: Mapping[str, Any]
    mode: str
    stall: bool
    search: tuple[str, ...]
    backward: bool = False
    alone: bool = False
    memory_bytes: int | None = None


def builder_name(builder: Builder) -> str:
    """Name a builder so that another process can import it.

    Raises:
        InputError: a lambda, a method or a nested function, which another process cannot import.
    """
    name, module = getattr(builder, "__qualname__", ""), getattr(builder, "__module__", "")
    if not name.isidentifier() or not module:
        raise InputError(f"{name or builder!r} cannot be imported by the child; pass a top-level function")
    if module != "__main__":
        return f"{module}:{name}"
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        raise InputError(
            f"{name} is defined at an interactive prompt; move it into a file for the child to import"
        )
    return f"{Path(script).resolve()}:{name}"


def resolve(name: str) -> Builder:
    """Import the builder that `builder_name` named."""
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
