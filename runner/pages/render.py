"""From runbooks and records to pages (path under the docs folder → page). Pure but for `render_folders`."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from runner.entry.guard_files import GuardFile, guard_files
from runner.entry.model import Runbook
from runner.entry.read import read_all
from runner.pages.entry_page import entry_pages
from runner.pages.evidence import gather
from runner.pages.fleet import fleet_page
from runner.pages.guards import guard_pages
from runner.pages.guides import FAQ, guide_pages, replaced_in
from runner.pages.lists import list_pages
from runner.pages.programs import catalogue, feed, latest_results, llms_text, signatures_script
from runner.pages.reference import reference_pages
from runner.pages.site import Page, Site, plain_page
from runner.pages.templates import environment, record_path
from runner.pages.view import shown_records
from runner.record.model import Record
from runner.record.schema import record_schema
from runner.record.store import Problem, Store

__all__ = ["Page", "hand_written", "record_path", "render", "render_folders"]

# In the docs folder, for this site's own generator and not for readers.
_NOT_PAGES = ("_", "gen_pages.py", "hooks.py")


def render(
    runbooks: Sequence[Runbook],
    records: Iterable[Record],
    now: datetime,
    templates: Path,
    unreadable: Sized = (),
    guides: Mapping[str, str] = MappingProxyType({}),
    options: Mapping[str, Sequence[Mapping[str, object]]] = MappingProxyType({}),
    site_url: str = "",
    *,
    guards: Sequence[GuardFile] = (),
    bundle: bool = False,
) -> dict[str, Page]:
    """Render every generated page and data file.

    Args:
        runbooks: all entries, by number.
        records: all records that could be read, in any order; each is looked at once.
        now: the moment that ages are counted from.
        templates: the folder of Jinja templates.
        unreadable: the files that are no records, so that the start page says how many; counted after the last record.
        guides: the hand-written pages, path under the docs folder → Markdown.
        options: what each probe's parser takes (`runner.check.commands.probe_options`).
        site_url: the site's address, for the feed's links; empty if it is unknown.
        guards: the files for a training job.
        bundle: the site has `runbook.pyz`, the tool as one file, at its root; pages then link to it.

    Returns:
        Path under the docs folder → page; paths use `/`. Of the guides, those that ask for numbers, and the plain
        Markdown of every page.

    Raises:
        RunbookFaultsError: an entry or a guide asks for a number of something that does not exist.
    """
    evidence = gather(records, runbooks)
    shared = {
        "runbooks": runbooks,
        "evidence": evidence,
        "now": now,
        "unreadable": len(unreadable),
        "bundle": bundle,
        "replaced": replaced_in(guides.get(FAQ, ""), runbooks),
    }
    site = Site(runbooks, evidence, environment(templates, now), shared)
    fleet = fleet_page(site)
    pages = {
        **list_pages(site),
        "fleet.md": Page(fleet, None),
        **plain_page("fleet.md", fleet),
        **reference_pages(site, options),
        **guard_pages(site, guards),
        **_data(site, site_url),
        **guide_pages(guides, site.known),
    }
    for runbook in runbooks:
        pages |= entry_pages(site, runbook)
    # A page under a guide's path is the guide itself; every other Markdown page is listed here.
    others = [(page.address, _title(page.text)) for page in pages.values() if page.address]
    apart = [(path, title) for path, title in others if not re.match(r"entries/(?!index)", path)]
    pages["llms.txt"] = Page(llms_text(runbooks, site.symptoms, apart), None)
    return pages


def render_folders(
    runbooks: Path | Sequence[Path],
    data: Path,
    docs: Path,
    options: Mapping[str, Sequence[Mapping[str, object]]],
    site_url: str = "",
    *,
    bundle: bool = False,
) -> dict[str, Page]:
    """Read entries, records and hand-written pages, and render every page as of now.

    Args:
        runbooks: the folder of entries, or several.
        data: the data folder.
        docs: the folder of hand-written pages and templates.
        options: as in `render`.
        site_url: as in `render`.
        bundle: as in `render`.

    Raises:
        InputError: there is no runbook.
        RunbookFaultsError: as `read_all` and `render` do.
    """
    problems: list[Problem] = []
    written = {path.relative_to(docs).as_posix(): path for path in hand_written(docs) if path.suffix == ".md"}
    return render(
        read_all(runbooks),
        Store(data).read(problems),
        datetime.now(UTC),
        docs / "_templates",
        unreadable=problems,
        guides={name: path.read_text(encoding="utf-8") for name, path in written.items()},
        options=options,
        site_url=site_url,
        guards=guard_files(),
        bundle=bundle,
    )


def hand_written(docs: Path) -> list[Path]:
    """The files of the docs folder that are published as they are: guides, assets and data."""
    return sorted(
        path
        for path in docs.rglob("*")
        if path.is_file() and not path.relative_to(docs).parts[0].startswith(_NOT_PAGES)
    )


def _data(site: Site, site_url: str) -> dict[str, Page]:
    """What programs read."""
    newest = max((one.when for one in site.evidence.endings), default=None)
    texts = {
        "data/record.schema.json": _json(record_schema()),
        "data/latest.json": _json(latest_results(site.runbooks, site.evidence)),
        "data/catalogue.json": _json(catalogue(site.runbooks, site.symptoms)),
        "data/signatures.js": signatures_script(site.runbooks),
        "feed.xml": feed(site.evidence.changes[::-1], newest, site_url),
    }
    for record in shown_records(site.runbooks, site.evidence):
        texts[record_path(record)] = f"{record.model_dump_json(indent=1)}\n"
    return {path: Page(text, None) for path, text in texts.items()}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _title(markdown: str) -> str:
    found = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return found[1] if found else "untitled"
