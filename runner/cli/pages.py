"""`runbook pages`: writes the site's pages as plain Markdown files, for any other site generator."""

import argparse
import shutil
from pathlib import Path

from runner.base.errors import InputError, StoreError
from runner.base.words import counted
from runner.check.commands import probe_options
from runner.pages.render import hand_written, render_folders


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
    docs: Path = arguments.places.docs
    pages = render_folders(arguments.runbooks, arguments.data, docs, probe_options())
    # Plain twins are for sites with HTML pages; here the page itself is Markdown.
    own = {name: page for name, page in pages.items() if page.address is None}
    written = hand_written(docs)
    try:
        for path in written:
            shutil.copyfile(path, _place(out, path.relative_to(docs)))
        for name, page in own.items():
            _place(out, name).write_text(page.text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {error.filename}: {error.strerror}") from error
    print(
        f"pages: {counted(len(own), 'generated file')} and {counted(len(written), 'hand-written one')} in {out}"
    )
    return 0


def _place(out: Path, name: str | Path) -> Path:
    """The file of that name, its folder made."""
    place = out / name
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
