"""The two options of every probe that compiles."""

import argparse

from runner.kit.compile_guard.ladder import LADDERS

_SMART = "smart{}: under a deadline, whole model, else per block, else one compile thread, else eager"


def add_compile_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Give a probe's parser the two options that every probe that compiles has.

    `--compile-mode` is one of `LADDERS`; `--skip-compile` is short for `--compile-mode eager`.

    Args:
        parser: the probe's.
        default: what a probe that chooses the mode itself does by default, for the help; its default is None. Without
            it, the default is `smart`.
    """
    parser.add_argument(
        "--compile-mode",
        choices=tuple(LADDERS),
        default=None if default else "smart",
        help=_SMART.format("" if default else " (default)") + (f" (default: {default})" if default else ""),
    )
    parser.add_argument(
        "--skip-compile",
        dest="compile_mode",
        action="store_const",
        const="eager",
        help="do not compile; run the model in eager mode",
    )
