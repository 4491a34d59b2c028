"""From runbooks and records to pages (path under the docs folder → page). Pure: the caller writes them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment
from markupsafe import Markup

from runner.entry.by_hand import BY_HAND
from runner.entry.model import Phase, Prose, Runbook, Step
from runner.pages.answer import decision_tree, injecting, symptom_line
from runner.pages.before_after import before_and_after
from runner.pages.evidence import Evidence, gather, last_refresh
from runner.pages.fleet import fleet_page
from runner.pages.guides import FAQ, guide_pages, html_at, replaced_in
from runner.pages.page import Page, plain_page
from runner.pages.plot import trend_plot
from runner.pages.programs import catalogue, feed, latest_results, llms_text, redirect, signatures_script
from runner.pages.prose import Shown, as_markdown, expand
from runner.pages.readings import Known
from runner.pages.schema import schema_models
from runner.pages.templates import environment
from runner.pages.trends import trends
from runner.pages.view import (
    Bound,
    StepEvidence,
    bounds_elsewhere,
    by_urgency,
    claim_views,
    matrix_row,
    shown_records,
    step_evidence,
)
from runner.record.model import Record, record_schema
from runner.record.outcomes import Judged
from runner.vocabulary import METRICS, PROBES

__all__ = ["Page", "record_path", "render"]

# Rows of the matrix on one page: more would be too heavy for a phone.
ROWS_A_PAGE = 100
# Entries on the start page, the most urgent first, and in a branch of its tree.
ROWS_AT_START = 40
ENTRIES_A_BRANCH = 20
# Measurements of a step on its entry's page, for each class.
NUMBERS_A_STEP = 100
# Fewer runs than this are shown as a sentence: two points are not a trend.
FEWEST_DRAWN = 3
_Show = Callable[[Shown], str]
_Rows = tuple[StepEvidence, ...]
_Bounds = tuple[Bound, ...]


@dataclass(frozen=True)
class SectionView:
    """A section of an entry's page.

    Attributes:
        reproduces: it is Reproduce, whose steps are folded.
        injects: one of its steps sets the fault.
        parts: prose and steps, each step with its evidence.
    """

    title: str
    reproduces: bool
    injects: bool
    parts: tuple[tuple[Prose | Step, _Rows, _Bounds], ...]


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
        bundle: the site has `runbook.pyz`, the tool as one file, at its root; pages then link to it.

    Returns:
        Path under the docs folder → page; paths use `/`. Of the guides, those that ask for numbers, and the plain
        Markdown of every page.

    Raises:
        RunbookFaultsError: an entry or a guide asks for a number of something that does not exist.
    """
    site = _Site(runbooks, gather(records, runbooks), environment(templates, now), now, unreadable)
    site.shared |= {"bundle": bundle, "replaced": replaced_in(guides.get(FAQ, ""), runbooks)}
    pages = {
        **site.lists(),
        **site.fleet(),
        **site.reference(options),
        **site.data(site_url),
        **guide_pages(guides, site.known),
    }
    for runbook in runbooks:
        pages |= site.entry(runbook)
    # A page under a guide's path is the guide itself; every other Markdown page is listed here.
    others = [(page.address, _title(page.text)) for page in pages.values() if page.address]
    apart = [(path, title) for path, title in others if not re.match(r"entries/(?!index)", path)]
    pages["llms.txt"] = Page(llms_text(runbooks, site.symptoms, apart), None)
    return pages


class _Site:
    """What all pages of one site share."""

    def __init__(
        self,
        runbooks: Sequence[Runbook],
        evidence: Evidence,
        jinja: Environment,
        now: datetime,
        unreadable: Sized,
    ) -> None:
        self.runbooks = runbooks
        self.evidence = evidence
        self.jinja = jinja
        self.known = Known({runbook.id: runbook for runbook in runbooks}, evidence)
        self.rows = {runbook.id: matrix_row(runbook, evidence) for runbook in runbooks}
        self.symptoms = {
            runbook.id: " ".join(self._expanded(runbook, symptom_line(runbook), as_markdown).split())
            for runbook in runbooks
        }
        self.shared = {"evidence": evidence, "runbooks": runbooks, "now": now, "unreadable": len(unreadable)}

    def lists(self) -> dict[str, Page]:
        """The start page and the list of entries, which may take several pages."""
        rows = [(runbook, self.rows[runbook.id]) for runbook in self.runbooks]
        at_start = rows if len(rows) <= ROWS_AT_START else sorted(rows, key=by_urgency)[:ROWS_AT_START]
        shared = self.shared | {
            "tree": decision_tree(self.runbooks, ENTRIES_A_BRANCH),
            "refresh": last_refresh(self.evidence),
        }
        pages = {"index.md": Page(self._fill("index.md.j2", shared, rows=at_start), None)}
        pages |= plain_page("index.md", self._fill("index.plain.j2", shared, rows=rows, prefix="entries/"))
        pages |= plain_page("entries/index.md", self._fill("index.plain.j2", shared, rows=rows, prefix=""))
        count = max(1, -(-len(rows) // ROWS_A_PAGE))
        for number in range(count):
            some = rows[number * ROWS_A_PAGE : (number + 1) * ROWS_A_PAGE]
            path = f"entries/{'index' if number == 0 else f'page-{number + 1}'}.md"
            pages[path] = Page(self._fill("entries.md.j2", rows=some, number=number + 1, count=count), None)
        return pages

    def fleet(self) -> dict[str, Page]:
        """Campaigns over many nodes; the page is plain Markdown already."""
        text = fleet_page(self.jinja, self.shared, self.evidence.campaigns)
        return {"fleet.md": Page(text, None), **plain_page("fleet.md", text)}

    def reference(self, options: Mapping[str, Sequence[Mapping[str, object]]]) -> dict[str, Page]:
        """Measurements, probes and the record's schema."""
        emitted_by = {
            name: [probe for probe, info in PROBES.items() if name in info.emits] for name in METRICS
        }
        metrics = {"metrics": METRICS, "emitted_by": emitted_by}
        values: tuple[tuple[str, Mapping[str, object], str], ...] = (
            ("measurements", metrics, "runner/vocabulary/__init__.py"),
            ("probes", {"probes": PROBES, "options": options}, "runner/vocabulary/__init__.py"),
            ("record", {"models": schema_models(record_schema())}, "runner/record/model.py"),
        )
        pages: dict[str, Page] = {}
        for name, shown, source in values:
            path, template = f"reference/{name}.md", f"{name}.md.j2"
            pages[path] = Page(self._fill(template, shown, plain=False), source)
            pages |= plain_page(path, self._fill(template, shown, plain=True))
        return pages

    def data(self, site_url: str) -> dict[str, Page]:
        """What programs read."""
        newest = max((one.when for one in self.evidence.endings), default=None)
        pages = {
            "data/record.schema.json": Page(_json(record_schema()), None),
            "data/latest.json": Page(_json(latest_results(self.runbooks, self.evidence)), None),
            "data/catalogue.json": Page(_json(catalogue(self.runbooks, self.symptoms)), None),
            "data/signatures.js": Page(signatures_script(self.runbooks), None),
            "feed.xml": Page(feed(self.evidence.turns[::-1], newest, site_url), None),
        }
        for record in shown_records(self.runbooks, self.evidence):
            pages[record_path(record)] = Page(f"{record.model_dump_json(indent=1)}\n", None)
        return pages

    def entry(self, runbook: Runbook) -> dict[str, Page]:
        """An entry's page, its plain Markdown, and pages that lead here from former ids."""
        html = partial(self._expanded, runbook, show=html_at(1))
        plain = partial(self._expanded, runbook, show=as_markdown)
        drawn = [
            (trend, trend_plot(trend, f"trend-{place}") if len(trend.points) >= FEWEST_DRAWN else None)
            for place, trend in enumerate(trends(runbook, self.evidence))
        ]
        sections = self._sections(runbook)
        shared = {
            "runbook": runbook,
            "symptom": symptom_line(runbook),
            "sections": [one for one in sections if one.title != BY_HAND],
            "by_hand": [one for one in sections if one.title == BY_HAND],
            "injecting": injecting(runbook),
            "pairs": before_and_after(runbook, self.evidence),
            "drawn": drawn,
            "claims": claim_views(runbook, self.evidence),
            "row": self.rows[runbook.id],
            "runs": self._runs(runbook),
            "most_numbers": NUMBERS_A_STEP,
            "related": self._related(runbook),
        }
        page = self._fill("entry.md.j2", shared, expanded=html)
        text = self._fill("entry.plain.j2", shared, expanded=plain)
        path = f"entries/{runbook.id}.md"
        pages = {path: Page(page, f"runbooks/{runbook.path.name}"), **plain_page(path, text)}
        return pages | {f"entries/{old}.html": Page(redirect(runbook), None) for old in runbook.head.formerly}

    def _runs(self, runbook: Runbook) -> list[tuple[str, Record | None, Judged | None]]:
        """For each class the run that represents the entry, and newer, narrower runs that found the issue."""
        rows: list[tuple[str, Record | None, Judged | None]] = []
        for name in self.evidence.classes:
            stands = self.evidence.standings.get((name, runbook.id))
            if stands is None:
                rows.append((name, None, None))
            else:
                rows += [(name, *run) for run in ((stands.record, stands.judged), *stands.beside)]
        return rows

    def _related(self, runbook: Runbook) -> list[Runbook]:
        found = (self.known.runbooks.get(name) for name in set(runbook.head.related))
        return sorted(filter(None, found), key=lambda one: one.head.number)

    def _sections(self, runbook: Runbook) -> list[SectionView]:
        """The sections in file order; each step with its evidence."""
        setting = injecting(runbook)
        return [
            SectionView(
                title=section.title,
                reproduces=section.phase is Phase.REPRODUCE,
                injects=any(isinstance(part, Step) and part.id in setting for part in section.body),
                parts=tuple(
                    (part, (), ())
                    if isinstance(part, Prose)
                    else (
                        part,
                        step_evidence(runbook, part, self.evidence),
                        bounds_elsewhere(runbook, part, self.evidence),
                    )
                    for part in section.body
                ),
            )
            for section in runbook.sections
        ]

    def _expanded(self, runbook: Runbook, prose: Prose, show: _Show) -> Markup:
        # The author's Markdown is the page's own; only what was captured is foreign.
        return Markup(expand(prose.markdown, runbook.path, prose.line, self.known, show))  # noqa: S704

    def _fill(self, template: str, *shared: Mapping[str, object], **values: object) -> str:
        more = {name: value for some in shared for name, value in some.items()}
        return self.jinja.get_template(template).render(self.shared | more | values)


def record_path(record: Record) -> str:
    """Where the site keeps the raw record that a number came from."""
    return f"data/records/{record.run_id}.json"


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _title(markdown: str) -> str:
    found = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return found[1] if found else "untitled"
