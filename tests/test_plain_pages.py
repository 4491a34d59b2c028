"""`runbook pages` writes pages for any generator: what they say and where they lead hangs on no Markdown dialect.

CommonMark with tables and front matter is what every generator reads. The site's own settings are the other reading.
"""

import importlib.util
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.front_matter import front_matter_plugin

from runner.cli.main import main
from runner.entry.read import read_all
from tests.html_reader import Element, read_html
from tests.test_pages import to_html

ROOT = Path(__file__).parents[1]
COMMONMARK = MarkdownIt("commonmark", {"html": True}).enable("table").use(front_matter_plugin)
# What a generator that does not know a dialect would show: admonitions, tabs, attributes, icons, includes, notes.
LEFTOVERS = re.compile(
    r"^(?:!!!|\?\?\?|===|:::|///) ?|\{ ?[.#:%{]|:(?:material|octicons|fontawesome)-|-{1,}8<-|\[\^|\[\[|\[TOC\]"
    r"|\*\*|\]\(|</?[a-z]+[ >]|\\[\W_]",
    re.MULTILINE,
)
CODE = ("code", "pre")
# Sphinx sets quotation marks as a printer does, and nothing else.
STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's pages over its own records, as they are written for another generator."""
    out = tmp_path_factory.mktemp("plain") / "docs"
    assert main(["pages", "--out", str(out)]) == 0
    assert len(list(out.rglob("*.md"))) > len(list((ROOT / "kb").rglob("*.md"))) + len(entries())
    return out


@cache
def entries() -> tuple[str, ...]:
    return tuple(entry.id for entry in read_all(ROOT / "runbooks"))


@cache
def read(page: Path) -> Element:
    return read_html(COMMONMARK.render(page.read_text(encoding="utf-8")))


def markdown_pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.md"))


def outside_code(element: Element) -> Iterator[str]:
    """The texts between tags, but for code and what programs printed."""
    for child in element.children:
        if isinstance(child, str):
            yield child
        elif child.tag not in CODE:
            yield from outside_code(child)


def said(element: Element) -> str:
    """All text without its white space, which dialects set in other places."""
    return "".join(element.text.replace("¶", "").translate(STRAIGHT).split())


def cells(element: Element) -> list[list[list[str]]]:
    """Every table as its rows of texts: which value stands with which class."""
    return [
        [[said(cell) for cell in row.all("th", "td")] for row in table.all("tr")]
        for table in element.all("table")
    ]


def leads_to(page: Element, path: str) -> Iterator[str]:
    """Where the links of a page lead within the site, from its root."""
    for element in page.all():
        for name in ("href", "src"):
            target = urlsplit(element.attributes.get(name, ""))
            if target.path and not target.scheme and not target.netloc:
                yield posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(target.path)))


def test_no_page_shows_the_markup_of_a_dialect(tmp_path: Path) -> None:
    # Without records: what a program printed may look like any markup, and is text.
    assert main(["--data", str(tmp_path / "none"), "pages", "--out", str(tmp_path / "docs")]) == 0
    for page in markdown_pages(tmp_path / "docs"):
        found = [text for text in outside_code(read(page)) if LEFTOVERS.search(text)]
        assert not found, (page.name, found[:3])


def test_every_page_says_in_commonmark_what_it_says_on_the_site_cell_by_cell(written: Path) -> None:
    tables = 0
    for page in markdown_pages(written):
        own = to_html(FRONT_MATTER.sub("", page.read_text(encoding="utf-8")))
        assert said(read(page)) == said(own), page.relative_to(written)
        assert cells(read(page)) == cells(own), page.relative_to(written)
        tables += len(cells(own))
    assert tables > len(entries())


def test_every_link_leads_to_a_written_file_and_markdown_names_pages_as_markdown(written: Path) -> None:
    files = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    # HTML that is in a page already cannot be rewritten by a generator: it names the page that is made of `x.md`.
    built = {f"{name.removesuffix('.md')}.html" for name in files if name.endswith(".md")}
    for page in markdown_pages(written):
        path = page.relative_to(written).as_posix()
        assert set(leads_to(read(page), path)) <= files | built, path
        by_markdown = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))
        assert not [target for target in by_markdown if target.endswith(".html")], path


@pytest.mark.system
@pytest.mark.skipif(importlib.util.find_spec("myst_parser") is None, reason="Sphinx is not installed here")
def test_sphinx_builds_every_page_with_all_that_it_says_and_no_dead_link(
    written: Path, tmp_path: Path
) -> None:
    (tmp_path / "conf.py").write_text(
        'project = "llm-runbooks"\nextensions = ["myst_parser"]\nmyst_heading_anchors = 3\n'
        'suppress_warnings = ["toc.not_included"]\n',
        encoding="utf-8",
    )
    site = tmp_path / "site"
    words = ["-m", "sphinx", "-q", "-W", "-c", str(tmp_path), str(written), str(site)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Sphinx copies no other files than pictures.
    shutil.copytree(written, site, ignore=shutil.ignore_patterns("*.md"), dirs_exist_ok=True)
    for page in markdown_pages(written):
        path = page.relative_to(written).with_suffix(".html").as_posix()
        (main_part,) = read_html((site / path).read_text(encoding="utf-8")).all("div", role="main")
        assert said(main_part) == said(read(page)), path
        assert cells(main_part) == cells(read(page)), path
        assert not [one for one in leads_to(main_part, path) if not (site / one).is_file()], path
