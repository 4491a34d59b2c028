"""Files for programs: catalogue, results, signatures, llms.txt, a feed of changed verdicts, redirects. Pure."""

import html
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

from runner.base.words import bracketed
from runner.entry.model import Runbook
from runner.entry.signatures import signature_table
from runner.history.endings import scope_words
from runner.history.verdict_changes import OUTCOME, VerdictChange
from runner.pages.badges import shown_outcome, state_words
from runner.pages.evidence import SiteEvidence
from runner.record.model import Record
from runner.record.outcomes import Judged

MOST_FEED_ENTRIES = 100
_ATOM = "http://www.w3.org/2005/Atom"
_AUTHORITY = "llm-runbooks,2026"


def catalogue(runbooks: Sequence[Runbook], symptoms: dict[str, str]) -> list[dict[str, object]]:
    """Every entry with what a program needs to find, show and run it; links are from the site's root."""
    return [
        {
            "id": runbook.id,
            "number": runbook.head.number,
            "title": runbook.head.title,
            "symptom": symptoms[runbook.id],
            "seen": list(runbook.head.seen),
            "severity": runbook.head.severity.value,
            "tags": list(runbook.head.tags),
            "signatures": [one.model_dump(mode="json") for one in runbook.head.signatures],
            "run": f"nox -s runbook-{runbook.id}",
            "proof": [one.model_dump(mode="json") for one in runbook.head.proof],
            "steps": [step.model_dump(mode="json", exclude={"line"}) for step in runbook.steps],
            "page": f"entries/{runbook.id}.html",
            "markdown": f"entries/{runbook.id}.md",
            "source": f"runbooks/{runbook.path.name}",
            "guide": runbook.head.guide and PurePosixPath(runbook.head.guide).with_suffix(".html").as_posix(),
            "related": list(runbook.head.related),
            "formerly": list(runbook.head.formerly),
        }
        for runbook in runbooks
    ]


def latest_results(runbooks: Sequence[Runbook], evidence: SiteEvidence) -> dict[str, object]:
    """The outcome of every entry on every class, and the newest finished result of every step, per class and preset."""
    known = {runbook.id for runbook in runbooks}
    standings = [
        {
            "machine_class": machine_class,
            "runbook": runbook,
            **_ran(stands.record, stands.judged),
            "narrower": [_ran(record, found) for record, found in stands.beside],
        }
        for (machine_class, runbook), stands in sorted(evidence.standings.items())
        if runbook in known
    ]
    steps = [
        {
            "machine_class": machine_class,
            "runbook": runbook,
            "step": step,
            "preset": preset,
            "status": result.status.value,
            "digest": result.digest,
            "started_at": result.model_dump(mode="json")["started_at"],
            "nodes": len(nodes),
            "record": f"data/records/{record.run_id}.json",
            "measurements": [one.model_dump(mode="json", exclude={"samples"}) for one in result.measurements],
        }
        for (machine_class, runbook, step, preset), nodes in sorted(evidence.finished.items())
        if runbook in known
        for record, result in nodes[-1:]
    ]
    return {"entries": standings, "steps": steps}


def _ran(record: Record, found: Judged) -> dict[str, object]:
    """A run by its outcome: judged by the entry as it is now, like everything on the site."""
    return {
        "outcome": found.outcome.value,
        "unproved": list(found.unproved),
        "started_at": record.model_dump(mode="json", include={"started_at"})["started_at"],
        "options": record.options.model_dump(mode="json"),
        "node": record.node_alias,
        "record": f"data/records/{record.run_id}.json",
    }


def signatures_script(runbooks: Sequence[Runbook]) -> str:
    """The table of signatures as a script: a page opened from a folder may not fetch a file."""
    table = json.dumps(signature_table(runbooks), ensure_ascii=True, sort_keys=True)
    return f"window.runbookSignatures = {table};\n"


def llms_text(
    runbooks: Sequence[Runbook], symptoms: dict[str, str], others: Sequence[tuple[str, str]]
) -> str:
    """`llms.txt`: what this is, and where the Markdown of every page is.

    Args:
        runbooks: by number.
        symptoms: a line for each entry, as plain Markdown.
        others: (path of its Markdown, title) of every other page.
    """
    lines = [
        "# llm-runbooks",
        "",
        "> Runbooks for operators of large language models on 8×B200 nodes. Each gives symptom, cause and fix; its",
        "> commands run, and its numbers come from records that carry class, versions, date and samples.",
        "",
        "A number of one machine class says nothing about another; *unmeasured* means that no record exists, *stale*",
        "that the step has changed since. *Fix proved*: the fault was found and removed, and the effect measured;",
        "*method checked on CPU*: the same, on a host without the GPUs that the entry is for; *drill passed*: found",
        "and removed, the effect not measured there. data/catalogue.json has the entries, data/latest.json the newest",
        "outcomes and results, data/record.schema.json the schema of a record, feed.xml the changed verdicts.",
        "",
        "## Entries",
        "",
        *(
            f"- [{_one_line(runbook.head.title)}](entries/{runbook.id}.md): {_one_line(symptoms[runbook.id])}"
            for runbook in runbooks
        ),
        "",
        "## Other pages",
        "",
        *(f"- [{_one_line(title)}]({path})" for path, title in others),
    ]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("[", "\\[").replace("]", "\\]").replace("<", "\\<")


def feed(changes: Sequence[VerdictChange], newest: datetime | None, site_url: str) -> str:
    """Changed verdicts, as Atom (RFC 4287).

    Args:
        changes: newest first.
        newest: when the newest run was, so that the feed's own time changes with its records only.
        site_url: the site's address, with a slash at its end; empty if it is unknown, and links are then relative.
    """
    ET.register_namespace("", _ATOM)
    root = ET.Element(f"{{{_ATOM}}}feed")
    _add(root, "title", "llm-runbooks: changed verdicts")
    _add(root, "id", f"tag:{_AUTHORITY}:verdicts")
    _add(root, "updated", _instant(newest or datetime(1970, 1, 1, tzinfo=UTC)))
    _add(_add(root, "author"), "name", "llm-runbooks")
    _add(root, "link", href=f"{site_url}index.html", rel="alternate", type="text/html")
    _add(root, "link", href=f"{site_url}feed.xml", rel="self", type="application/atom+xml")
    for change in changes[:MOST_FEED_ENTRIES]:
        entry = _add(root, "entry")
        run, head = change.later, change.later.runbook.head
        what = "" if change.what == OUTCOME else f"{change.what} "
        before, after = (
            state_words(shown_outcome(run.runbook, run.machine_class, one))
            for one in (change.before, change.after)
        )
        turned = f"{what}{before} → {after}"
        _add(entry, "title", f"{head.number}. {head.title}: {turned} on {run.where}")
        _add(entry, "id", f"tag:{_AUTHORITY}:verdict:{run.run_id}{f':{change.what}' if what else ''}")
        _add(entry, "updated", _instant(run.when))
        _add(entry, "link", href=f"{site_url}entries/{head.id}.html", rel="alternate", type="text/html")
        _add(entry, "category", term=change.after)
        causes = f"; other differences: {', '.join(change.causes)}" if change.causes else ""
        why = f": {change.why}" if change.why else ""
        scope = bracketed(scope_words(run.scope))
        _add(entry, "summary", f"{turned}, on {run.node}, a node of {run.where}{scope}{why}{causes}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add(parent: ET.Element, name: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, f"{{{_ATOM}}}{name}", attributes)
    element.text = None if text is None else "".join(one if one.isprintable() else "\ufffd" for one in text)
    return element


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def redirect(runbook: Runbook) -> str:
    """A page at a former address that redirects to the entry and keeps the fragment after `#`."""
    there, title = f"{runbook.id}.html", html.escape(runbook.head.title)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<link rel="canonical" href="{there}"><meta name="robots" content="noindex">\n'
        f'<script>location.replace("{there}" + location.hash)</script>\n'
        f'<meta http-equiv="refresh" content="0; url={there}"></head>\n'
        f'<body><p>This entry is now <a href="{there}">{title}</a>.</p></body></html>\n'
    )
