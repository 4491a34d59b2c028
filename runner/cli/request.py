"""The arguments that select what to run, shared by `plan` and `run`."""

import argparse

from runner.base.errors import InputError
from runner.base.units import parse_duration
from runner.entry.model import Phase
from runner.entry.plan import ALLOWANCES, Request
from runner.sizing.presets import PRESETS


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--phase`, `--step`, `--reproduce`, `--allow`, `--preset`, `--without-slow` and `--within`."""
    phases = [phase.value for phase in Phase]
    parser.add_argument(
        "--phase", action="append", choices=phases, default=[], help="only this phase; repeatable"
    )
    parser.add_argument("--step", action="append", default=[], metavar="S", help="only this step; repeatable")
    parser.add_argument("--reproduce", action="store_true", help="also inject the fault (phase Reproduce)")
    parser.add_argument(
        "--allow",
        action="append",
        choices=ALLOWANCES,
        default=[],
        help="allow changes to the host, or running on busy GPUs; repeatable",
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="scale of the work (default: by the number of GPUs)"
    )
    parser.add_argument("--without-slow", action="store_true", help="leave out steps marked slow")
    parser.add_argument(
        "--within",
        type=_seconds,
        metavar="TIME",
        help="time limit of the whole run, as 90s, 5m or 1h; steps that do not fit are reported as left out",
    )


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def request_from(arguments: argparse.Namespace) -> Request:
    """The request that the arguments state. `--phase reproduce` implies `--reproduce`.

    Raises:
        InputError: `--reproduce` together with phases that exclude Reproduce.
    """
    phases = tuple(phase for phase in Phase if phase.value in arguments.phase)
    if arguments.reproduce and phases and Phase.REPRODUCE not in phases:
        raise InputError(
            "--reproduce has no effect because --phase excludes Reproduce; add --phase reproduce"
        )
    return Request(
        phases=phases,
        steps=tuple(arguments.step),
        reproduce=arguments.reproduce or Phase.REPRODUCE in phases,
        allow=tuple(sorted(set(arguments.allow))),
        preset=arguments.preset,
        slow=not arguments.without_slow,
        within=arguments.within,
    )
