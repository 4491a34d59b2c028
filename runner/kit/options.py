"""Options that several probes have, a default that they share, and the numbers that none can work with."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from runner.base.errors import InputError
from runner.sizing.presets import PRESETS

Parser = argparse.ArgumentParser | argparse._ArgumentGroup  # noqa: SLF001 - a group has no public type

Numbers = Mapping[str, str | tuple[float, str]]
"""Options that take a number: the help of each, by name; or the default, which is added to the help, and the help."""

BATCH_SIZE: Numbers = MappingProxyType({"--batch-size": (1, "batch size in sequences")})

# Below this share of the speed in a clean environment, the caller's environment is the fault.
ENVIRONMENT_FLOOR = 0.9

# Records hold integers of 64 bits; the system's timers take about as many seconds as the second.
LARGEST_INTEGER, LARGEST_FLOAT = 2**63 - 1, 1e9


def add_counts(parser: Parser, options: Numbers) -> None:
    """Give a parser options that take whole numbers."""
    _add_numbers(parser, options, int, "N")


def add_numbers(parser: Parser, metavar: str, options: Numbers) -> None:
    """Give a parser options that take numbers, shown as `metavar`: `S` for seconds, `X` without a unit."""
    _add_numbers(parser, options, float, metavar)


def add_choices(parser: Parser, options: Mapping[str, tuple[Sequence[str], str | None, str]]) -> None:
    """Give a parser options that take one of some words: the words, the default and the help of each, by name."""
    for name, (words, default, said) in options.items():
        parser.add_argument(name, choices=words, default=default, help=said)


def add_flags(parser: Parser, options: Mapping[str, str]) -> None:
    """Give a parser options without a value: the help of each, by name."""
    for name, said in options.items():
        parser.add_argument(name, action="store_true", help=said)


def add_model(parser: Parser, default: str, kinds: str = "or a model folder", metavar: str = "MODEL") -> None:
    """Give a parser `--model`: a preset's name, or what `kinds` says; `default` says what is used without it."""
    said = f"{', '.join(PRESETS)} {kinds} (default: {default})"
    parser.add_argument("--model", metavar=metavar, help=said)


def check_numbers(arguments: argparse.Namespace) -> None:
    """Check every number among the arguments, before the probe's own checks.

    Raises:
        InputError: a number is not finite, or too large.
    """
    for name, given in vars(arguments).items():
        for value in given if isinstance(given, list) else [given]:
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
                raise InputError(f"{option} {str(value)[:20]}…: must be at most {LARGEST_INTEGER}")
            if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
                raise InputError(f"{option} {value:g}: must be a number, at most {LARGEST_FLOAT:.0f}")


def require_positive(arguments: argparse.Namespace, *options: str) -> None:
    """Refuse a number of these options that is not above zero.

    Raises:
        InputError: it names the first such option.
    """
    for option in options:
        value = value_of(arguments, option)
        if value <= 0:
            raise InputError(f"{option} must be above zero, not {value}")


def value_of(arguments: argparse.Namespace, option: str) -> Any:
    """The value of an option, such as `--batch-size`."""
    return getattr(arguments, option.removeprefix("--").replace("-", "_"))


def _add_numbers(parser: Parser, options: Numbers, kind: Callable[[str], float], metavar: str) -> None:
    for name, option in options.items():
        default, said = (None, option) if isinstance(option, str) else option
        shown = said if default is None else f"{said} (default {default:g})"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=shown)
