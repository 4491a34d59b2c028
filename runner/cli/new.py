"""`runbook new`: the skeleton of an entry."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from runner.base.errors import InputError, RunbookFaultsError, StoreError
from runner.entry.attributes import entry_id_fault
from runner.entry.parse import parse
from runner.entry.read import read_paths
from runner.entry.skeleton import skeleton

NEXT = """\
{path} is entry {number}. Next:
  1. Write it: answer every question in it.
  2. Check the file: runbook check {quoted}
  3. Run it here and record the measurements: runbook run {id} --reproduce{where}
  4. In a checkout, see its page: nox -s serve"""
# Of an installed `runbook`, which has no nox and builds no site.
NEXT_INSTALLED = """\
{path} is entry {number}. Next:
  1. Write it: answer every question in it.
  2. runbook check --runbooks {folder}
  3. runbook run {id} --reproduce --runbooks {folder}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "id", metavar="ID", help="id of the entry: lower-case letters, digits and hyphens; also the file name"
    )
    parser.add_argument("--title", help="title of the entry, one line (default: derived from the id)")


def run(arguments: argparse.Namespace) -> int:
    """Write the file under the next free number.

    Raises:
        InputError: the id is invalid, the entry exists, or the title is not one line.
        StoreError: the file cannot be written.
    """
    entry_id = arguments.id
    fault = entry_id_fault(entry_id)
    if fault is not None:
        raise InputError(fault)
    title = arguments.title if arguments.title is not None else entry_id.replace("-", " ").capitalize()
    if not title.strip() or not title.isprintable():
        raise InputError("a title must be one line of text; omit --title to derive it from the id")
    folder = arguments.places.own
    if folder is None:
        raise InputError(
            "the built-in entries cannot be changed; name a folder for the new one with --runbooks DIR"
        )
    path = folder / f"{entry_id}.md"
    number = max(_numbers(arguments.runbooks), default=0) + 1
    text = skeleton(entry_id, number, title.strip())
    try:
        parse(text, path)
    except RunbookFaultsError as error:
        raise InputError(
            f"the title {title!r} is not a plain heading; use plain words without markup"
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} already exists; choose another id, or edit the file") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    checkout = arguments.places.checkout
    built_in = checkout is not None and folder.resolve() == (checkout / "runbooks").resolve()
    quoted = shlex.quote(str(folder))
    text = NEXT_INSTALLED if checkout is None else NEXT
    where = "" if built_in else f" --runbooks {quoted}"
    print(
        text.format(
            path=path, number=number, id=entry_id, quoted=shlex.quote(str(path)), folder=quoted, where=where
        )
    )
    return 0


def _numbers(folders: Sequence[Path]) -> list[int]:
    # Faults in existing entries do not prevent a new one.
    runbooks, _ = read_paths(tuple(path for folder in folders for path in sorted(folder.glob("*.md"))))
    return [runbook.head.number for runbook in runbooks]
