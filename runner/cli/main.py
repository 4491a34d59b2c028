"""The `runbook` command. Each command has its own module, which is imported only when it is used."""

import argparse
import contextlib
import gc
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO, cast

import runner
from runner.base.errors import InputError
from runner.base.failure import UNKNOWN, failed, output_lost
from runner.base.places import find_places, running_package, shipped_commit
from runner.base.screen import Screen
from runner.cli.interrupts import interrupts_ignored, terminate_like_interrupt

_STANDARD_ERROR = 2
# Plugins of pydantic are looked for in every package that is installed.
_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"
# Command -> one line of help. `runner.cli.<command>` (with `_` for `-`) has `arguments(parser)` and
# `run(arguments) -> int`.
COMMANDS = {
    "list": "list the entries, each with its last outcome on this class of machine",
    "show": "print one entry",
    "check": "check entries for faults without running them; no GPU needed",
    "plan": "list the steps that would run here, the skipped ones with the reason, and the maximum runtime",
    "run": "run entries on this node and record the measurements",
    "diagnose": "run the read-only Diagnose steps of every entry on this node, ranked by findings",
    "hang": "find the rank that holds up a job that hangs now; reads only",
    "collect": "gather the results of a Slurm campaign from its nodes, and report",
    "match": "find the entries that match a log, best first",
    "guard": "list the guards for a training job, or print one as a file",
    "verify-data": "check that the data folder may be published",
    "trend": "list the numbers and verdicts that changed over the last runs",
    "compare": "compare two records, or two machine classes, number by number",
    "prune": "list the records that no page and no trend needs; with --delete, delete them",
    "publish": "commit the records of a folder and nothing else; with --push, push them",
    "new": "create the skeleton of an entry",
    "pages": "write the site's pages as plain Markdown files, for another generator",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 good, 1 issue found, 2 bad input, 3 unknown.

    130: an interrupt; 141: the reader closed the pipe before everything was printed. A failure of this program itself
    is never 1; `failure.status_for` maps it for callers with their own meaning of exit statuses.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _fill_standard_descriptors()
    with _lasting_streams() as out, terminate_like_interrupt():
        try:
            with _quick_imports() if argv is None else contextlib.nullcontext():
                parser = _parser(words)
            arguments = parser.parse_args(words)
            arguments.places = find_places(arguments.runbooks, arguments.data)
            arguments.runbooks, arguments.data = arguments.places.entries, arguments.places.data
            status = int(arguments.run(arguments))
        except SystemExit as leaving:
            # After `--help` the code is an integer; a text would mean exit status 1.
            status = leaving.code if isinstance(leaving.code, int) else UNKNOWN if leaving.code else 0
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - Python would exit with 1, which means that the issue was found
            with interrupts_ignored():
                return failed(error, words, os.environ)
        out.flush()
        return status if status or out.lost is None else output_lost(out.lost, words, os.environ)


@contextlib.contextmanager
def _quick_imports() -> Iterator[None]:
    """Import without what takes a sixth of the start: garbage collection, and pydantic's search for plugins."""
    # What is imported stays, so nothing of it is garbage; later collections do not look at it either.
    gc.disable()
    given = os.environ.get(_PLUGINS)
    os.environ[_PLUGINS] = "__all__"
    try:
        yield
    finally:
        # Steps get the caller's environment.
        del os.environ[_PLUGINS]
        if given is not None:
            os.environ[_PLUGINS] = given
        gc.freeze()
        gc.enable()


def _fill_standard_descriptors() -> None:
    """Open closed standard descriptors; else a record or the lock file could become a child's standard output."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            pass
        os.close(descriptor)


@contextlib.contextmanager
def _lasting_streams() -> Iterator[Screen]:
    """Replace standard output and error by streams that survive the loss of their reader, also if closed at start."""
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
    """Reports bad arguments like other bad input: in one line, with the exit status for the caller."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


class _MainParser(_Parser):
    """Ends its help with the folders in use, which are looked up only for that."""

    def format_help(self) -> str:
        """The help, with where entries and records are."""
        places = find_places()
        entries = ", ".join(map(str, places.entries)) or "none; name a folder with --runbooks DIR"
        self.epilog = f"Entries here: {entries}. Records here: {places.data}."
        return super().format_help()


class _Version(argparse.Action):
    """Prints the version and the commit; the commit is looked up only here."""

    def __call__(self, *_: object) -> NoReturn:
        print(version_line())
        sys.exit(0)


def version_line() -> str:
    """`runbook 0.1.0 (commit 1a2b3c…)`; without the commit where it is unknown."""
    code = importlib.import_module("runner.record.code")
    places = find_places()
    commit = shipped_commit()
    if commit is None and places.checkout is not None:
        state = code.code_state(running_package(), places.checkout / "runbooks", root=places.checkout)
        commit = state.commit and state.commit + (" with changes" if state.dirty else "")
    return f"runbook {runner.__version__}" + (f" (commit {commit})" if commit else "")


_RUNBOOKS = (
    "folder of entries, in addition to the built-in ones; an entry with a built-in id replaces it (in a checkout: "
    "instead of runbooks/)"
)
_DATA = "folder of the records"


def _add_places(parser: argparse.ArgumentParser, default: object) -> None:
    """Declare `--runbooks` and `--data`, which may be given before or after the command."""
    parser.add_argument("--runbooks", type=Path, default=default, metavar="DIR", help=_RUNBOOKS)
    parser.add_argument("--data", type=Path, default=default, metavar="DIR", help=_DATA)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = _MainParser(
        prog="runbook",
        description="Runbooks for large-model clusters: diagnose a node, fix it, and verify the fix.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and the commit, and exit"
    )
    _add_places(parser, None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        _add_places(command, argparse.SUPPRESS)
        # Only the requested command is imported, so that `list` starts fast.
        if name in words:
            module = importlib.import_module(f"runner.cli.{name.replace('-', '_')}")
            module.arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
