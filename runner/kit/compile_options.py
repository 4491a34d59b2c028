"""Compile modes, and the options of every probe that compiles. Importing this does not import the guard."""

import argparse
from collections.abc import Mapping
from enum import StrEnum


class Mode(StrEnum):
    """How a model is compiled: one rung of the ladder.

    `one-thread` compiles without Inductor's worker pool: per block if the model has repeated blocks, else whole.
    """

    WHOLE = "whole"
    PER_BLOCK = "per-block"
    ONE_THREAD = "one-thread"
    EAGER = "eager"


class Stall(StrEnum):
    """A stall injected into Inductor, for drills: it keeps one CPU fully busy and never ends.

    `every-graph` stalls any compile, so only eager works; `whole-model` stalls only the first rung.
    """

    EVERY_GRAPH = "every-graph"
    WHOLE_MODEL = "whole-model"

    def hits(self, mode: Mode) -> bool:
        """Whether this stall affects a compile in that mode."""
        return mode is Mode.WHOLE or (mode is not Mode.EAGER and self is Stall.EVERY_GRAPH)


LADDERS: Mapping[str, tuple[Mode, ...]] = {
    "smart": (Mode.WHOLE, Mode.PER_BLOCK, Mode.ONE_THREAD, Mode.EAGER),
    "whole": (Mode.WHOLE,),
    "per-block": (Mode.PER_BLOCK,),
    "one-thread": (Mode.ONE_THREAD,),
    "eager": (Mode.EAGER,),
}
"""Requested mode -> rungs to try, best first. Only `smart` asks for a ladder."""

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
