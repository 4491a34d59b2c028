"""`runbook pages`: writes the site's pages as plain Markdown files, for any other site generator."""

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path

from runner.base.errors import InputError, StoreError
from runner.base.words import counted
from runner.check.commands import probe_options
from runner.entry.read import read_all
from runner.pages.render import render
from runner.record.store import Problem, Store

# Files for this site's own generator, not for readers of the pages.
_NOT_PAGES = ("_", "gen_pages.py", "hooks.py")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Write every page, generated and hand-written, and the data behind them as plain files: Markdown, JSON, "
        "assets. MkDocs gets the same input."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="an empty or new folder")


def run(arguments: argparse.Namespace) -> int:
    """Write the files.

    Raises:
        InputError: the folder is not empty.
        StoreError: a file cannot be written.
    """
    out: Path = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; name a new one")
    docs = arguments.places.docs
    written = sorted(
        path
        for path in docs.rglob("*")
        if path.is_file() and not path.relative_to(docs).parts[0].startswith(_NOT_PAGES)
    )
    guides = {
        path.relative_to(docs).as_posix(): path.read_text(encoding="utf-8")
        for path in written
        if path.suffix == ".md"
    }
    problems: list[Problem] = []
    pages = render(
        read_all(arguments.runbooks),
        Store(arguments.data).read(problems),
        datetime.now(UTC),
        docs / "_templates",
        unreadable=problems,
        guides=guides,
        options=probe_options(),
    )
    try:
        for path in written:
            place = out / path.relative_to(docs)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        # Plain twins are for sites with HTML pages; here the page itself is Markdown.
        own = {name: page for name, page in pages.items() if page.address is None}
        for name, page in own.items():
            place = out / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(page.text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {error.filename}: {error.strerror}") from error
    print(
        f"pages: {counted(len(own), 'generated file')} and {counted(len(written), 'hand-written one')} in {out}"
    )
    return 0
