"""From runbooks and records to pages (path under the docs folder → page). Pure: somebody else writes them."""

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

from runner.catalogue import METRICS, PROBES
from runner.entry.model import Prose, Runbook, Step
from runner.evidence.outcomes import Judged
from runner.evidence.record import Record, record_schema
from runner.pages.answer import decision_tree, fix_block, symptom_line
from runner.pages.environment import environment
from runner.pages.evidence import Evidence, gather
from runner.pages.fleet import fleet_page
from runner.pages.plot import trend_plot
from runner.pages.programs import catalogue, feed, latest_results, llms_text, redirect, signatures_script
from runner.pages.proof import before_and_after, trends
from runner.pages.prose import Shown, as_html, as_markdown, expand
from runner.pages.readings import Known
from runner.pages.refresh import last_refresh
from runner.pages.schema import schema_models
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

# So many rows of the matrix stand on one page: more would make it too heavy for a phone.
ROWS_A_PAGE = 100
# So many entries the start page shows, those that need somebody first, and a branch of its tree.
ROWS_AT_START = 40
ENTRIES_A_BRANCH = 20
# So many of a step's measurements stand on its entry's page for each class.
NUMBERS_A_STEP = 100
_Show = Callable[[Shown], str]
_Rows = tuple[StepEvidence, ...]
_Bounds = tuple[Bound, ...]


@dataclass(frozen=True)
class Page:
    """One file of the site.

    Attributes:
        text: its content.
        source: the file that an editor should open, from the root, None for data.
        address: where the site has it, if that is not its path.
    """

    text: str
    source: str | None
    address: str | None = None


def render(
    runbooks: Sequence[Runbook],
    records: Iterable[Record],
    now: datetime,
    templates: Path,
    unreadable: Sized = (),
    guides: Mapping[str, str] = MappingProxyType({}),
    options: Mapping[str, Sequence[Mapping[str, object]]] = MappingProxyType({}),
    site_url: str = "",
) -> dict[str, Page]:
    """Render every generated page and data file.

    Args:
        runbooks: all entries, by number.
        records: all records that could be read, in any order; each is looked at once.
        now: the moment that ages are counted from.
        templates: the folder of Jinja templates.
        unreadable: the files that are no records, so that the start page says how many; counted after the last record.
        guides: the hand-written pages, path under the docs folder → Markdown.
        options: what each probe's parser takes (`runner.commands.probe_options`).
        site_url: where the site will stand, for the feed's links; empty where nobody knows.

    Returns:
        Path under the docs folder → page; paths use `/`. Of the guides, those that ask for numbers, and the plain
        Markdown of every page.

    Raises:
        RunbookFaultsError: an entry or a guide asks for a number of something that does not exist.
    """
    site = _Site(runbooks, gather(records, runbooks), environment(templates, now), now, unreadable)
    pages = {
        **site.lists(),
        **site.fleet(),
        **site.reference(options),
        **site.data(site_url),
        **_guides(guides, site.known),
    }
    for runbook in runbooks:
        pages |= site.entry(runbook)
    # What stands under a guide's path already is its page; every other Markdown page is named here.
    others = [(page.address, _title(page.text)) for page in pages.values() if page.address]
    apart = [(path, title) for path, title in others if not re.match(r"entries/(?!index)", path)]
    pages["llms.txt"] = Page(llms_text(runbooks, site.symptoms, apart), None)
    return pages


def plain_page(path: str, text: str) -> dict[str, Page]:
    """The plain Markdown of a page, which the site has beside it: `entries/x.md` beside `entries/x.html`."""
    return {f"{path}.txt": Page(text, None, path)}


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
        """Campaigns over many nodes; plain Markdown as it stands."""
        text = fleet_page(self.jinja, self.shared, self.evidence.campaigns)
        return {"fleet.md": Page(text, None), **plain_page("fleet.md", text)}

    def reference(self, options: Mapping[str, Sequence[Mapping[str, object]]]) -> dict[str, Page]:
        """Measurements, probes and the record's schema; these are plain Markdown as they stand."""
        emitted_by = {
            name: [probe for probe, info in PROBES.items() if name in info.emits] for name in METRICS
        }
        texts = {
            "reference/measurements.md": self._fill(
                "measurements.md.j2", metrics=METRICS, emitted_by=emitted_by
            ),
            "reference/probes.md": self._fill("probes.md.j2", probes=PROBES, options=options),
            "reference/record.md": self._fill("record.md.j2", models=schema_models(record_schema())),
        }
        pages: dict[str, Page] = {}
        for (path, text), source in zip(
            texts.items(),
            ("runner/catalogue/__init__.py", "runner/catalogue/__init__.py", "runner/evidence/record.py"),
            strict=True,
        ):
            pages[path] = Page(text, source)
            pages |= plain_page(path, text)
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
        html = partial(self._expanded, runbook, show=_html(1))
        plain = partial(self._expanded, runbook, show=as_markdown)
        drawn = [
            (trend, trend_plot(trend, f"trend-{place}") if len(trend.points) > 1 else None)
            for place, trend in enumerate(trends(runbook, self.evidence))
        ]
        shared = {
            "runbook": runbook,
            "symptom": symptom_line(runbook),
            "sections": self._sections(runbook),
            "fix": fix_block(runbook),
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
        """Of each class the run that speaks for the entry, and newer narrower ones that found the issue."""
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

    def _sections(self, runbook: Runbook) -> list[tuple[str, list[tuple[Prose | Step, _Rows, _Bounds]]]]:
        """Title of each section, and its parts; a step with what is known of it."""
        return [
            (
                section.title,
                [
                    (part, (), ())
                    if isinstance(part, Prose)
                    else (
                        part,
                        step_evidence(runbook, part, self.evidence),
                        bounds_elsewhere(runbook, part, self.evidence),
                    )
                    for part in section.body
                ],
            )
            for section in runbook.sections
        ]

    def _expanded(self, runbook: Runbook, prose: Prose, show: _Show) -> Markup:
        # The author's Markdown is the page's own; only what was captured is foreign.
        return Markup(expand(prose.markdown, runbook.path, prose.line, self.known, show))  # noqa: S704

    def _fill(self, template: str, *shared: Mapping[str, object], **values: object) -> str:
        more = {name: value for some in shared for name, value in some.items()}
        return self.jinja.get_template(template).render(self.shared | more | values)


def _guides(guides: Mapping[str, str], known: Known) -> dict[str, Page]:
    pages: dict[str, Page] = {}
    for path, text in guides.items():
        file = Path("kb", path)
        expanded = expand(text, file, 1, known, _html(path.count("/")))
        if expanded != text:
            pages[path] = Page(expanded, f"kb/{path}")
        pages |= plain_page(path, expand(text, file, 1, known, as_markdown))
    return pages


def _html(depth: int) -> _Show:
    return partial(as_html, prefix="../" * depth)


def _title(markdown: str) -> str:
    found = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return found[1] if found else "untitled"


def record_path(record: Record) -> str:
    """Where the site keeps the raw record that a number came from."""
    return f"data/records/{record.run_id}.json"


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
