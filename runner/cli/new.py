"""`runbook new`: the skeleton of an entry."""

import argparse
from pathlib import Path

from runner.entry.attributes import is_id
from runner.entry.parse import parse
from runner.entry.read import read_paths
from runner.entry.skeleton import skeleton
from runner.errors import InputError, RunbookFaultsError, StoreError

NEXT = """\
{path} is entry {number}. Next:
  1. write it: every question in it wants an answer
  2. nox -s check                          finds what is wrong with the file
  3. nox -s runbook-{id} -- --reproduce    runs it here and records what it measured
  4. nox -s serve                          shows its page"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "id", metavar="ID", help="lower-case letters, digits and hyphens; also the file's name"
    )
    parser.add_argument("--title", help="one line that a reader recognises (default: made from the id)")


def run(arguments: argparse.Namespace) -> int:
    """Write the file under the next free number.

    Raises:
        InputError: no id, the entry is there, or the title is not one line.
        StoreError: the file cannot be written.
    """
    entry_id = arguments.id
    if not is_id(entry_id):
        raise InputError(f"{entry_id!r} is no id; use lower-case letters, digits and hyphens")
    title = arguments.title if arguments.title is not None else entry_id.replace("-", " ").capitalize()
    if not title.strip() or not title.isprintable():
        raise InputError("a title is one line of text; leave --title out to have it made from the id")
    path = arguments.runbooks / f"{entry_id}.md"
    number = max(_numbers(arguments.runbooks), default=0) + 1
    text = skeleton(entry_id, number, title.strip())
    try:
        parse(text, path)
    except RunbookFaultsError as error:
        raise InputError(f"the title {title!r} does not read as a heading; say it in plain words") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} is there already; choose another id, or edit it") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    print(NEXT.format(path=path, number=number, id=entry_id))
    return 0


def _numbers(folder: Path) -> list[int]:
    # Entries that have faults do not keep a new one from being begun.
    runbooks, _ = read_paths(tuple(sorted(folder.glob("*.md"))))
    return [runbook.head.number for runbook in runbooks]
