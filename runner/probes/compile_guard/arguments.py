"""The two options of every probe that compiles."""

import argparse

from runner.probes.compile_guard.ladder import LADDERS


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a probe's parser the two options that every probe that compiles has.

    `--compile-mode` is one of `LADDERS` (default `smart`); `--skip-compile` is short for `--compile-mode eager`.
    """
    parser.add_argument(
        "--compile-mode",
        choices=tuple(LADDERS),
        default="smart",
        help="smart (default): under a deadline, whole model, else per block, else one compile thread, else eager",
    )
    parser.add_argument(
        "--skip-compile",
        dest="compile_mode",
        action="store_const",
        const="eager",
        help="do not compile; run the model in eager mode",
    )
