"""The `runbook` command. One module a command; each is imported only when it is asked for."""

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO, cast

from runner.cli.interrupts import interrupts_ignored, terminate_like_interrupt
from runner.errors import InputError
from runner.failure import CANNOT_SAY, failed, output_lost
from runner.screen import Screen

_STANDARD_ERROR = 2
# Command -> one line of help. `runner.cli.<command>` (with `_` for `-`) has `arguments(parser)` and
# `run(arguments) -> int`.
COMMANDS = {
    "list": "the entries, when each was last measured on this class of machine, and what it came to",
    "show": "one entry in the terminal",
    "check": "validate runbooks; no GPU needed",
    "plan": "what would run here, what would be skipped and why, the longest it may take",
    "run": "run entries on this node and record what they measured",
    "diagnose": "every entry's read-only Diagnose steps on this node, ranked by what they found",
    "collect": "take in what a campaign's nodes have returned, and report",
    "match": "log to entries: which issues a log shows, best first",
    "verify-data": "the publishing gate over the data folder",
    "trend": "which numbers changed over the last runs, and which verdicts turned",
    "compare": "two records, or two machine classes, number by number",
    "prune": "records that no page and no trend needs; shows them, deletes them only with --delete",
    "publish": "commit a folder's records, and nothing else, and push them",
    "new": "a skeleton of an entry that `check` accepts",
    "pages": "the site's pages as plain Markdown files, for another generator",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 good, 1 issue found, 2 bad input, 3 cannot say.

    130 is an interrupt, 141 a reader that went away before everything was printed. A failure of this program itself
    is never 1, and what `failure.status_for` makes of it for readers with a table of their own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _fill_standard_descriptors()
    with _lasting_streams() as out, terminate_like_interrupt():
        try:
            arguments = _parser(words).parse_args(words)
            status = int(arguments.run(arguments))
        except SystemExit as leaving:
            # `--help` has printed what it was asked for; a text would be the exit status 1.
            status = leaving.code if isinstance(leaving.code, int) else CANNOT_SAY if leaving.code else 0
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - Python would end with 1, the issue is here
            with interrupts_ignored():
                return failed(error, words, os.environ)
        out.flush()
        return status if status or out.lost is None else output_lost(out.lost, words, os.environ)


def _fill_standard_descriptors() -> None:
    """Open what was closed from the start: else a record or the lock would be standard output to what is started."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            pass
        os.close(descriptor)


@contextlib.contextmanager
def _lasting_streams() -> Iterator[Screen]:
    """Standard output and error whose loss ends nothing, also where they were closed from the start."""
    before = sys.stdout, sys.stderr
    out, err = (stream or Path(os.devnull).open("w", encoding="utf-8") for stream in before)  # noqa: SIM115 - open as long as the process
    if isinstance(out, io.TextIOWrapper):
        # A terminal without UTF-8 gets escapes instead of a traceback.
        out.reconfigure(errors="backslashreplace")
    screen = Screen(out)
    sys.stdout, sys.stderr = cast("TextIO", screen), cast("TextIO", Screen(err))
    try:
        yield screen
    finally:
        sys.stdout, sys.stderr = before


class _Parser(argparse.ArgumentParser):
    """Bad arguments are bad input like any other: one line, and what it comes to for the reader."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` lists what there is")


def project_root() -> Path:
    """The folder that holds `runbooks/`: the checkout this package runs from, else the working directory."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "runbooks").is_dir() else Path.cwd()


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    root = project_root()
    parser = _Parser(prog="runbook", description="Runbooks that prove themselves.", allow_abbrev=False)
    parser.add_argument(
        "--runbooks", type=Path, default=root / "runbooks", metavar="DIR", help="where entries are"
    )
    parser.add_argument(
        "--data", type=Path, default=root / "site_data", metavar="DIR", help="where records are"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # Only the command that is asked for is imported, so that `list` starts fast.
        if name in words:
            module = importlib.import_module(f"runner.cli.{name.replace('-', '_')}")
            module.arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
