"""Refuses numbers that no probe can work with, before its own checks. Pure."""

import argparse

from runner.base.errors import InputError

# Records hold integers of 64 bits; the system's timers take about as many seconds as the second.
LARGEST_INTEGER, LARGEST_FLOAT = 2**63 - 1, 1e9


def check_numbers(arguments: argparse.Namespace) -> None:
    """Check every number among the arguments.

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
