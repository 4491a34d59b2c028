"""Holds `python -m runner.…` commands against the programs' own argument parsers, without running them."""

import argparse
import contextlib
import importlib
import importlib.util
import io
import pkgutil
import re
import shlex
from collections.abc import Iterator, Sequence

import runner.probes
from runner.catalogue import PROBES
from runner.entry.words import nearest
from runner.probes.contract import Probe

_ENDS = frozenset({"|", "||", "&&", "&", ";", ";;", "(", ")", "|&", "{", "}"})
# A redirection and its target; 2 of `2>` belongs to it only where it stands alone before it.
_REDIRECTION = re.compile(r"(?:(?<=\s)\d+)?(?:&>>?|>>?\|?|<<?<?)\s*(?:&\d+|&-|[^\s|;&()]+)")
# What a value may be when only the shell knows it: any type and any choice takes it.
_UNKNOWABLE = re.compile(r"[$`*?]")


def command_faults(block: str) -> Iterator[tuple[int, str]]:
    """Faults of the project's own commands in a shell block; lines count from 1 within the block."""
    for line, words in _simple_commands(block):
        call = _call(words)
        if call is None:
            continue
        module, arguments = call
        message = _module_fault(module) or _argument_fault(module, arguments)
        if message:
            yield line, message


def probe_options() -> dict[str, list[dict[str, object]]]:
    """What every probe's parser takes, as data for the site, which may not look at probes itself.

    Returns:
        Probe → options in the parser's order: usage, help, default (None where there is none), required.
    """
    # Of another project's tool that speaks as a probe there is no parser here.
    own = (name for name in sorted(PROBES) if importlib.util.find_spec(f"runner.probes.{name}"))
    return {name: list(_options(name)) for name in own}


def _options(name: str) -> Iterator[dict[str, object]]:
    parser = importlib.import_module(f"runner.probes.{name}").PROBE.parser()
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list its actions
        if action.dest == "help":
            continue
        default = action.default
        yield {
            "usage": " ".join(filter(None, (", ".join(action.option_strings), _value_of(action)))),
            "help": action.help and action.help % {"default": default, "prog": parser.prog},
            "default": None
            if default in (None, False, argparse.SUPPRESS)
            else " ".join(map(str, default if isinstance(default, list | tuple) else [default])),
            "required": action.required,
        }


def _value_of(action: argparse.Action) -> str:
    """`N`, `SIZE …` or `gloo|nccl`: what stands after an option; nothing after a switch."""
    if action.nargs == 0:
        return ""
    one = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
    return one if action.nargs in (None, 1, "?") else f"{one} …"


def _simple_commands(block: str) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of every simple command. A line that shlex cannot split is for `bash -n` to judge."""
    lines = block.split("\n")
    number = 0
    while number < len(lines):
        start, text = number, lines[number]
        while text.endswith("\\") and number + 1 < len(lines):
            number += 1
            text = f"{text[:-1]} {lines[number]}"
        number += 1
        # A command substitution is a command of its own, quoted or not.
        text = re.sub(r"\"?\$\((?!\()|`", " ( ", _REDIRECTION.sub(" ", text))
        for words in _split(text):
            yield start + 1, words


def _split(text: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;()<>")
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word in _ENDS:
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:
        # An open quote: the rest of a string that spans lines. What was read of the command stays readable.
        pass
    yield words


def _call(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The module and arguments of `python -m runner.…` within a simple command."""
    for place in range(len(words) - 2):
        if re.fullmatch(r"(.*/)?python3?(\.\d+)?", words[place]) and words[place + 1] == "-m":
            module = words[place + 2]
            return (module, list(words[place + 3 :])) if module.split(".")[0] == "runner" else None
    return None


def _module_fault(module: str) -> str | None:
    if not all(part.isidentifier() for part in module.split(".")):
        return f"{module!r} is no module"
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        known = [f"runner.probes.{info.name}" for info in pkgutil.iter_modules(runner.probes.__path__)]
        return f"there is no module {module}{nearest(module, known)}"
    return None


def _argument_fault(module: str, arguments: Sequence[str]) -> str | None:
    if not module.startswith("runner.probes."):
        return None
    probe = getattr(importlib.import_module(module), "PROBE", None)
    if not isinstance(probe, Probe):
        return f"{module} is no probe that can be run: it has no PROBE"
    parser = probe.parser()
    _forgive_unknowable(parser, arguments)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            _, left = parser.parse_known_args(list(arguments))
    except SystemExit as stop:
        if not stop.code:
            return None  # --help
        message = (said.getvalue().strip().splitlines() or ["bad arguments"])[-1].partition("error: ")[2]
        return f"{module}: {message}"
    # `$FLAGS` stands for flags that only the shell knows; whatever else is left over is a fault.
    unknown = [word for word in left if not _UNKNOWABLE.search(word)]
    if unknown:
        flags = parser._option_string_actions  # noqa: SLF001 - argparse has no public way to list its options
        hint = nearest(unknown[0], flags) if unknown[0].startswith("-") else ""
        return f"{module}: unrecognized arguments: {' '.join(unknown)}{hint}"
    return None


def _forgive_unknowable(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Where a value is the shell's to fill in, types and choices cannot be checked."""
    if any(_UNKNOWABLE.search(word) for word in arguments):
        for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list its actions
            action.choices, action.type = None, None
