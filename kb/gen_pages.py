"""Hands the generated pages to mkdocs-gen-files. All logic is in `runner.pages`; no step runs here.

RUNBOOK_DATA names another data folder than site_data/ (for example the demo's scratch folder).
"""

import os
from pathlib import Path

import mkdocs_gen_files
from mkdocs.exceptions import PluginError
from mkdocs_gen_files.editor import FilesEditor

from runner.base.errors import RunbookError
from runner.check.commands import probe_options
from runner.pages.render import render_folders

ROOT = Path(__file__).parents[1]
# Made by `nox -s bundle`; published beside the pages where it is there.
BUNDLE = ROOT / "dist" / "runbook.pyz"


def main() -> None:
    """Render and write every generated page."""
    data = Path(os.environ.get("RUNBOOK_DATA") or ROOT / "site_data")
    site_url = os.environ.get("RUNBOOK_SITE_URL", "")
    try:
        pages = render_folders(
            ROOT / "runbooks", data, ROOT / "kb", probe_options(), site_url, bundle=BUNDLE.is_file()
        )
    except RunbookError as error:
        # MkDocs prints this as one line of its own kind and ends; anything else would be a traceback.
        raise PluginError(str(error)) from error
    for path, page in pages.items():
        with mkdocs_gen_files.open(path, "w") as out:
            out.write(page.text)
    if BUNDLE.is_file():
        with mkdocs_gen_files.open(BUNDLE.name, "wb") as copy:
            copy.write(BUNDLE.read_bytes())
    # mkdocs_gen_files.set_edit_path has an effect only beside a repo_url, which would make every reader's browser
    # call the forge; the files themselves can be told.
    files = FilesEditor.current().files
    for path, page in pages.items():
        file = files.get_file_from_path(path)
        if file is None:
            continue
        if page.source is not None:
            file.edit_uri = f"../{page.source}"
        if page.address is not None:
            # MkDocs makes a page of whatever ends in .md; what is to be published as Markdown has another name here.
            file.dest_uri = page.address


main()
