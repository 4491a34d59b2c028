"""From runbooks and records to pages (path under the docs folder → page). Pure: somebody else writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.catalogue import METRICS, PROBES
from runner.entry.model import Prose, Runbook, Safety, Step
from runner.evidence.record import Record, record_schema
from runner.pages.fleet import fleet_page
from runner.pages.numbers import Evidence, gather
from runner.pages.prose import as_html, expand
from runner.pages.readings import Known
from runner.pages.text import age, cell, day, inert
from runner.pages.view import (
    bounds_elsewhere,
    claim_views,
    matrix_row,
    shown_records,
    step_evidence,
)


@dataclass(frozen=True)
class Page:
    """One file of the site; `source` is the file that an editor should open, from the root, None for data."""

    text: str
    source: str | None


def render(
    runbooks: Sequence[Runbook],
    records: Sequence[Record],
    now: datetime,
    templates: Path,
    unreadable: int = 0,
    guides: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Page]:
    """Render every generated page and data file.

    Args:
        runbooks: all entries, by number.
        records: all records that could be read.
        now: the moment that ages are counted from.
        templates: the folder of Jinja templates.
        unreadable: how many record files could not be read, so that the start page says it.
        guides: the hand-written pages, path under the docs folder → Markdown.

    Returns:
        Path under the docs folder → page; paths use `/`. Of the guides, those that ask for numbers.

    Raises:
        RunbookFaultsError: an entry or a guide asks for a number of something that does not exist.
    """
    evidence = gather(records)
    known = Known({runbook.id: runbook for runbook in runbooks}, evidence)
    jinja = _jinja(templates, now)
    shared = {"evidence": evidence, "runbooks": runbooks, "now": now, "unreadable": unreadable}
    rows = [(runbook, matrix_row(runbook, evidence)) for runbook in runbooks]
    measurements = jinja.get_template("measurements.md.j2").render(shared, metrics=METRICS, probes=PROBES)
    pages = {
        "index.md": Page(jinja.get_template("index.md.j2").render(shared, rows=rows), None),
        "entries/index.md": Page(jinja.get_template("entries.md.j2").render(shared, rows=rows), None),
        "reference/measurements.md": Page(measurements, "runner/catalogue/__init__.py"),
        "fleet.md": Page(fleet_page(jinja, shared, records), None),
        "data/record.schema.json": Page(_json(record_schema()), None),
        "data/latest.json": Page(_json(_latest(runbooks, evidence)), None),
    }
    for runbook in runbooks:
        pages[f"entries/{runbook.id}.md"] = Page(
            _entry(jinja, shared, runbook, known), f"runbooks/{runbook.path.name}"
        )
    for path, text in guides.items():
        show = partial(as_html, prefix="../" * path.count("/"))
        expanded = expand(text, Path("kb", path), 1, known, show)
        if expanded != text:
            pages[path] = Page(expanded, f"kb/{path}")
    for record in shown_records(runbooks, evidence):
        pages[record_path(record)] = Page(_json(record.model_dump(mode="json")), None)
    return pages


def record_path(record: Record) -> str:
    """Where the site keeps the raw record that a number came from."""
    return f"data/records/{record.run_id}.json"


def _entry(jinja: Environment, shared: dict[str, object], runbook: Runbook, known: Known) -> str:
    evidence = known.evidence
    show = partial(as_html, prefix="../")
    sections = [
        (
            section.title,
            [
                # The author's Markdown is the page's own; only what was captured is foreign.
                (Markup(expand(part.markdown, runbook.path, part.line, known, show)), None, (), ())  # noqa: S704
                if isinstance(part, Prose)
                else (
                    None,
                    part,
                    step_evidence(runbook, part, evidence),
                    bounds_elsewhere(runbook, part, evidence),
                )
                for part in section.body
            ],
        )
        for section in runbook.sections
    ]
    runs = [(name, evidence.runs.get((name, runbook.id))) for name in evidence.classes]
    return jinja.get_template("entry.md.j2").render(
        shared, runbook=runbook, sections=sections, claims=claim_views(runbook, evidence), runs=runs
    )


def _jinja(templates: Path, now: datetime) -> Environment:
    # Autoescape on whatever the ending: the pages are Markdown, but every value from outside goes into raw HTML.
    jinja = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(inert=inert, cell=cell, day=day, fence=_fence)
    jinja.globals.update(age=lambda moment: age(moment, now), record_path=record_path, needs=_needs)
    return jinja


def _fence(command: str) -> Markup:
    """A command as a fenced block, exactly as it runs; the fence is longer than any run of backquotes in it."""
    longest = max((len(run) for line in command.split("\n") if (run := _leading_backquotes(line))), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}bash\n{command.rstrip()}\n{fence}")  # noqa: S704 - a fence is verbatim


def _leading_backquotes(line: str) -> str:
    stripped = line.lstrip()
    return stripped[: len(stripped) - len(stripped.lstrip("`"))]


def _needs(step: Step) -> str:
    """What a step asks of the node, in words."""
    words = []
    if step.gpus:
        words.append(f"{step.gpus} GPU{'s' if step.gpus > 1 else ''}")
    if step.nodes > 1:
        words.append(f"{step.nodes} nodes")
    what = {
        Safety.READ_ONLY: "read-only",
        Safety.LOADS_DEVICE: "loads the device",
        Safety.CHANGES_HOST: "changes the host: runs only with --allow changes-host",
    }[step.safety]
    return "; ".join(
        [*(["needs " + " and ".join(words)] if words else []), what, f"deadline {step.timeout:g} s"]
    )


def _latest(runbooks: Sequence[Runbook], evidence: Evidence) -> list[dict[str, object]]:
    """For programs: the newest finished result of every step, per class and preset."""
    known = {runbook.id for runbook in runbooks}
    return [
        {
            "machine_class": machine_class,
            "runbook": runbook,
            "step": step,
            "preset": preset,
            "status": result.status.value,
            "digest": result.digest,
            "started_at": result.model_dump(mode="json")["started_at"],
            "record": record_path(record),
            "measurements": [one.model_dump(mode="json", exclude={"samples"}) for one in result.measurements],
        }
        for (machine_class, runbook, step, preset), nodes in sorted(evidence.finished.items())
        if runbook in known
        for record, result in nodes[-1:]
    ]


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
