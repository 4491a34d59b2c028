"""Hands the generated pages to MkDocs. All thought is in `runner.pages`; nothing is executed here.

RUNBOOK_DATA names another data folder than site_data/ (the demo's scratch folder, say).
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from runner.entry.read import read_all
from runner.errors import RunbookError
from runner.evidence.store import Problem, Store
from runner.pages.render import Page, render

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every generated page, in the place of a guide that it was made from."""
    try:
        pages = _pages()
    except RunbookError as error:
        # MkDocs prints this as one line of its own kind and ends; anything else would be a traceback.
        raise PluginError(str(error)) from error
    for path, page in pages.items():
        file = File.generated(config, path, content=page.text)
        if page.source is not None:
            file.edit_uri = f"../{page.source}"
        if page.address is not None:
            # MkDocs makes a page of whatever ends in .md; what is to be published as Markdown has another name here.
            file.dest_uri = page.address
        written = files.get_file_from_path(path)
        if written is not None:
            files.remove(written)
        files.append(file)
    return files


def _pages() -> dict[str, Page]:
    store = Store(Path(os.environ.get("RUNBOOK_DATA") or ROOT / "site_data"))
    problems: list[Problem] = []
    return render(
        read_all(ROOT / "runbooks"),
        store.read(problems),
        datetime.now(UTC),
        ROOT / "kb" / "_templates",
        unreadable=problems,
        guides=_guides(),
        options=json.loads((ROOT / "kb" / "data" / "probe_options.json").read_text(encoding="utf-8")),
        site_url=os.environ.get("RUNBOOK_SITE_URL", ""),
    )


def _guides() -> dict[str, str]:
    """The hand-written pages: path under the docs folder → Markdown."""
    docs = ROOT / "kb"
    written = (
        path for path in sorted(docs.rglob("*.md")) if not path.relative_to(docs).parts[0].startswith("_")
    )
    return {path.relative_to(docs).as_posix(): path.read_text(encoding="utf-8") for path in written}
