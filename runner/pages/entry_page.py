"""An entry's page and its plain Markdown. Pure."""

from dataclasses import dataclass
from functools import partial

from runner.entry.by_hand import BY_HAND
from runner.entry.model import Phase, Prose, Runbook, Safety, Step
from runner.pages.answer import injecting, symptom_line
from runner.pages.before_after import before_and_after
from runner.pages.claims import claim_views
from runner.pages.plot import trend_plot
from runner.pages.programs import redirect
from runner.pages.prose import as_html, as_markdown
from runner.pages.site import Page, Site, plain_page
from runner.pages.trends import trends
from runner.pages.view import Bound, StepEvidence, bounds_elsewhere, step_evidence
from runner.record.model import Record
from runner.record.outcomes import Judged

# Measurements of a step on its entry's page, for each class.
NUMBERS_A_STEP = 100
# Fewer runs than this are shown as a sentence: two points are not a trend.
FEWEST_DRAWN = 3


@dataclass(frozen=True)
class SectionView:
    """A section of an entry's page.

    Attributes:
        reproduces: it is Reproduce, whose steps are folded.
        injects: one of its steps sets the fault.
        reads_only: all its steps are read-only, such as those that judge a captured sample.
        parts: prose and steps, each step with its evidence.
    """

    title: str
    reproduces: bool
    injects: bool
    reads_only: bool
    parts: tuple[tuple[Prose | Step, tuple[StepEvidence, ...], tuple[Bound, ...]], ...]


def entry_pages(site: Site, runbook: Runbook) -> dict[str, Page]:
    """An entry's page, its plain Markdown, and pages that lead here from former ids."""
    drawn = [
        (trend, trend_plot(trend, f"trend-{place}") if len(trend.points) >= FEWEST_DRAWN else None)
        for place, trend in enumerate(trends(runbook, site.evidence))
    ]
    sections = _sections(site, runbook)
    shared = {
        "runbook": runbook,
        "symptom": symptom_line(runbook),
        "sections": [one for one in sections if one.title != BY_HAND],
        "by_hand": [one for one in sections if one.title == BY_HAND],
        "injecting": injecting(runbook),
        "reproduces": any(step.phase is Phase.REPRODUCE for step in runbook.steps),
        "pairs": before_and_after(runbook, site.evidence),
        "drawn": drawn,
        "claims": claim_views(runbook, site.evidence),
        "row": site.rows[runbook.id],
        "runs": _runs(site, runbook),
        "most_numbers": NUMBERS_A_STEP,
        "related": _related(site, runbook),
    }
    html = partial(site.expanded, runbook, show=partial(as_html, prefix="../"))
    plain = partial(site.expanded, runbook, show=as_markdown)
    path = f"entries/{runbook.id}.md"
    return {
        path: Page(site.fill("entry.md.j2", shared, expanded=html), f"runbooks/{runbook.path.name}"),
        **plain_page(path, site.fill("entry.plain.j2", shared, expanded=plain)),
        **{f"entries/{old}.html": Page(redirect(runbook), None) for old in runbook.head.formerly},
    }


def _runs(site: Site, runbook: Runbook) -> list[tuple[str, Record | None, Judged | None]]:
    """For each class the run that represents the entry, and newer, narrower runs that found the issue."""
    rows: list[tuple[str, Record | None, Judged | None]] = []
    for name in site.evidence.classes:
        stands = site.evidence.standings.get((name, runbook.id))
        if stands is None:
            rows.append((name, None, None))
        else:
            rows += [(name, *run) for run in ((stands.record, stands.judged), *stands.beside)]
    return rows


def _related(site: Site, runbook: Runbook) -> list[Runbook]:
    found = (site.known.runbooks.get(name) for name in set(runbook.head.related))
    return sorted(filter(None, found), key=lambda one: one.head.number)


def _sections(site: Site, runbook: Runbook) -> list[SectionView]:
    """The sections in file order; each step with its evidence."""
    setting = injecting(runbook)
    return [
        SectionView(
            title=section.title,
            reproduces=section.phase is Phase.REPRODUCE,
            injects=any(isinstance(part, Step) and part.id in setting for part in section.body),
            reads_only=all(
                part.safety is Safety.READ_ONLY for part in section.body if isinstance(part, Step)
            ),
            parts=tuple(
                (part, (), ())
                if isinstance(part, Prose)
                else (
                    part,
                    step_evidence(runbook, part, site.evidence),
                    bounds_elsewhere(runbook, part, site.evidence),
                )
                for part in section.body
            ),
        )
        for section in runbook.sections
    ]
