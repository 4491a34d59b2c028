"""Checks `python -m runner.…` commands against the argument parsers of those programs, without running them."""

import argparse
import contextlib
import importlib
import importlib.util
import io
import pkgutil
import re
from collections.abc import Iterator, Sequence

import runner.probes
from runner.base.words import nearest
from runner.entry.shell import calls_of
from runner.kit.probe import Probe
from runner.vocabulary import PROBES

# A value that only the shell can expand; it is accepted for any type and any choice.
_UNKNOWABLE = re.compile(r"[$`*?]")


def command_faults(block: str) -> Iterator[tuple[int, str]]:
    """Faults of the project's own commands in a shell block; lines count from 1 within the block."""
    for call in calls_of(block):
        message = _module_fault(call.module) or _argument_fault(call.module, call.words)
        if message:
            yield call.line, message


def probe_options() -> dict[str, list[dict[str, object]]]:
    """The options of every probe, as data for the site, which must not import probes.

    Returns:
        Probe → options in the parser's order: usage, help, default (None where there is none), required.
    """
    # A tool of another project that reports as a probe has no parser here.
    own = {name: probe for name, probe in PROBES.items() if isinstance(probe, Probe)}
    return {name: list(_options(probe)) for name, probe in own.items()}


def _options(probe: Probe) -> Iterator[dict[str, object]]:
    parser = probe.parser()
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list its actions
        if action.dest == "help":
            continue
        # That of --preset comes from the environment, which is not the reader's.
        default = None if action.dest == "preset" else action.default
        yield {
            "usage": " ".join(filter(None, (", ".join(action.option_strings), _value_of(action)))),
            "help": action.help and action.help % {"default": default, "prog": parser.prog},
            "default": None
            if default in (None, False, argparse.SUPPRESS)
            else " ".join(map(str, default if isinstance(default, list | tuple) else [default])),
            "required": action.required,
        }


def _value_of(action: argparse.Action) -> str:
    """`N`, `SIZE …` or `gloo|nccl`: the value of an option; empty for a switch."""
    if action.nargs == 0:
        return ""
    one = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
    return one if action.nargs in (None, 1, "?") else f"{one} …"


def _module_fault(module: str) -> str | None:
    if not all(part.isidentifier() for part in module.split(".")):
        return f"{module!r} is not a module name"
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        known = [f"runner.probes.{info.name}" for info in pkgutil.iter_modules(runner.probes.__path__)]
        return f"no module named {module}{nearest(module, known)}"
    return None


def _argument_fault(module: str, arguments: Sequence[str]) -> str | None:
    if not module.startswith("runner.probes."):
        return None
    probe = getattr(importlib.import_module(module), "PROBE", None)
    if not isinstance(probe, Probe):
        return f"{module} is not a runnable probe: it has no PROBE"
    parser = probe.parser()
    _forgive_unknowable(parser, arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            _, left = parser.parse_known_args(list(arguments))
    except SystemExit as stop:
        if not stop.code:
            return None  # --help
        message = (
            (said.getvalue().strip().splitlines() or ["bad arguments"])[-1]
            .partition("error: ")[2]
            .rpartition("; see `")[0]
        )
        return f"{module}: {message}"
    # `$FLAGS` expands to flags that only the shell knows; any other leftover word is a fault.
    unknown = [word for word in left if not _UNKNOWABLE.search(word)]
    if unknown:
        flags = parser._option_string_actions  # noqa: SLF001 - argparse has no public way to list its options
        hint = nearest(unknown[0], flags) if unknown[0].startswith("-") else ""
        return f"{module}: unrecognized arguments: {' '.join(unknown)}{hint}"
    return None


def _forgive_unknowable(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Disable type and choice checks where the shell fills in a value."""
    if any(_UNKNOWABLE.search(word) for word in arguments):
        for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list its actions
            action.choices, action.type = None, None
