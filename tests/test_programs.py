"""What programs read: catalogue, results, feed, llms.txt with plain Markdown beside each page, redirects."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import markdown  # type: ignore[import-untyped]
import pytest

from runner.entry.model import Runbook
from runner.entry.parse import parse
from runner.entry.read import folder_faults, read_all
from runner.entry.signatures import signature_table
from runner.pages.evidence import SiteEvidence, gather, last_refresh
from runner.pages.lists import ROWS_AT_START
from runner.pages.render import Page, render
from runner.record.model import Outcome, Record, StepStatus
from tests.evidence_samples import machine, measurement
from tests.golden_entry import NOW, START, TEXT, ended_as, entry, records, result, run
from tests.hostile import EVERYTHING
from tests.html_reader import read_html
from tests.test_site import a_record, entry_text

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "kb" / "_templates"
ATOM = {"a": "http://www.w3.org/2005/Atom"}


def pages(*found: Record, runbooks: tuple[Runbook, ...] | None = None, site_url: str = "") -> dict[str, Page]:
    guides = {
        path.relative_to(ROOT / "kb").as_posix(): path.read_text()
        for path in (ROOT / "kb/guides").glob("*.md")
    }
    return render(
        runbooks or (entry(),),
        found,
        NOW,
        TEMPLATES,
        guides=guides if runbooks and len(runbooks) > 1 else {},
        site_url=site_url,
    )


def ended(*outcomes: tuple[int, str, Outcome], **changes: Any) -> list[Record]:
    """Runs of the small entry: (day, node, outcome)."""
    return [
        run(
            entry(),
            *ended_as(entry(), outcome),
            outcome=outcome,
            node_alias=node,
            started_at=START + timedelta(days=day),
            run_id=f"{day}{node}",
            **changes,
        )
        for day, node, outcome in outcomes
    ]


def gathered(found: list[Record]) -> SiteEvidence:
    return gather(found, [entry()])


def turned(found: list[Record]) -> list[tuple[str, str, str]]:
    return [(one.later.node, one.before, one.after) for one in gathered(found).changes]


def test_a_verdict_turns_where_a_node_ends_otherwise_than_the_time_before() -> None:
    found = ended((0, "a", Outcome.HEALTHY), (1, "a", Outcome.HEALTHY), (2, "a", Outcome.SYMPTOM))
    assert turned(found) == [("a", "unmeasured", "healthy"), ("a", "healthy", "symptom")]


def test_of_two_nodes_that_differ_the_second_is_named_once_and_neither_turns_again() -> None:
    found = ended(
        *(
            (day, node, outcome)
            for day in range(3)
            for node, outcome in (("a", Outcome.HEALTHY), ("b", Outcome.SYMPTOM))
        )
    )
    assert turned(found) == [("a", "unmeasured", "healthy"), ("b", "healthy", "symptom")]
    assert gathered(found).changes[1].causes == ("another node (b)",)


def test_simulated_runs_turn_no_verdict_and_another_preset_is_no_first_run() -> None:
    assert turned(ended((0, "a", Outcome.SYMPTOM), simulated=True)) == []
    assert turned(ended((0, "a", Outcome.SYMPTOM), preset="8b")) == []


def test_a_verdict_that_turned_at_another_preset_names_the_preset() -> None:
    found = ended((0, "a", Outcome.HEALTHY), (1, "a", Outcome.SYMPTOM), preset="8b")
    (turn,) = gathered(found).changes
    assert turn.later.where == "cpu-example-x86_64-2c at preset 8b"
    assert "on cpu-example-x86_64-2c at preset 8b" in pages(*found)["feed.xml"].text


def test_the_last_refresh_is_a_day_and_not_the_whole_history() -> None:
    refresh = last_refresh(gathered(ended((0, "a", Outcome.HEALTHY), (9, "a", Outcome.SYMPTOM))))
    assert refresh
    assert (refresh.runs, [one.after for one in refresh.turned], refresh.first) == (1, ["symptom"], ())
    assert last_refresh(gathered([])) is None
    first = last_refresh(gathered(ended((0, "a", Outcome.HEALTHY))))
    assert first
    assert (first.turned, [one.after for one in first.first]) == ((), ["healthy"])


def test_the_start_page_says_what_turned_or_that_nothing_was_ever_measured() -> None:
    text = pages(*ended((0, "a", Outcome.HEALTHY), (3, "a", Outcome.NOT_FIXED)))["index.md"].text
    words = read_html(text).words
    assert "1 verdict changed." in words
    assert "healthy → not fixed" in words
    assert "There are no records yet" in pages()["index.md"].text


def test_the_feed_is_atom_and_changes_with_the_records_only() -> None:
    found = ended((0, "a", Outcome.HEALTHY), (3, "a", Outcome.NOT_FIXED))
    text = pages(*found, site_url="https://example.invalid/kb/")["feed.xml"].text
    root = ET.fromstring(text)
    assert root.findtext("a:updated", namespaces=ATOM) == "2026-11-04T08:00:00Z"
    entries = root.findall("a:entry", ATOM)
    assert len({one.findtext("a:id", namespaces=ATOM) for one in entries}) == 2
    for one in (root, *entries):
        for name in ("id", "title", "updated"):
            assert one.findtext(f"a:{name}", namespaces=ATOM)
    assert (
        entries[0].findtext("a:title", namespaces=ATOM)
        == "7. A small entry: healthy → not fixed on cpu-example-x86_64-2c"
    )
    link = entries[0].find("a:link", ATOM)
    assert link is not None
    assert link.attrib["href"] == "https://example.invalid/kb/entries/small.html"
    assert ET.fromstring(pages()["feed.xml"].text).findall("a:entry", ATOM) == []


def test_the_catalogue_has_all_that_a_program_needs_to_find_and_run_an_entry() -> None:
    runbooks = read_all(ROOT / "runbooks")
    found = json.loads(pages(runbooks=runbooks)["data/catalogue.json"].text)
    assert [one["id"] for one in found] == [runbook.id for runbook in runbooks]
    for one, runbook in zip(found, runbooks, strict=True):
        assert [step["command"] for step in one["steps"]] == [step.command for step in runbook.steps]
        assert one["symptom"]
        assert "\n" not in one["symptom"]
        assert len(one["signatures"]) == len(runbook.head.signatures)
        assert one["run"] == f"nox -s runbook-{runbook.id}"


def test_the_table_of_signatures_is_one_for_the_page_and_for_the_command_line() -> None:
    runbooks = read_all(ROOT / "runbooks")
    script = pages(runbooks=runbooks)["data/signatures.js"].text
    found = re.fullmatch(r"window\.runbookSignatures = (.*);\n", script)
    assert found
    assert json.loads(found[1]) == signature_table(runbooks)


def test_every_page_has_its_plain_markdown_and_llms_txt_leads_to_it() -> None:
    runbooks = read_all(ROOT / "runbooks")
    found = pages(*records(entry()), runbooks=runbooks)
    addresses = {page.address for page in found.values() if page.address}
    html = {path for path in found if path.endswith(".md")} | {
        f"guides/{path.name}" for path in (ROOT / "kb" / "guides").glob("*.md")
    }
    assert addresses == html
    links = set(re.findall(r"\]\(([^)]+\.md)\)", found["llms.txt"].text))
    assert links == addresses


def test_the_plain_markdown_of_an_entry_has_its_commands_numbers_and_claims() -> None:
    text = pages(*records(entry()))["entries/small.md.txt"].text
    for part in (
        "```bash\npython -m runner.probes.collectives --op all_reduce\n```",
        "Bus bandwidth (bytes 8GiB) 410 MB/s",
        "8xB200-180GB: unmeasured",
        "2xH100-80GB: contradicted; Bus bandwidth (bytes 8GiB): 350 GB/s; [record](../data/records/b1b2c3d4e5f6.json)",
    ):
        assert part in text


def test_text_from_outside_stays_text_in_plain_markdown_and_in_the_feed(tmp_path: Path) -> None:
    skeletons, feeds = [], []
    for text in ("tame words", EVERYTHING):
        runbook = parse(entry_text(text, tmp_path / "marker"), Path("small.md"))
        found = pages(a_record(runbook, text), runbooks=(runbook,))
        shown = read_html(markdown.markdown(found["entries/small.md.txt"].text, extensions=["fenced_code"]))
        assert not shown.all("script", "img", "iframe")
        assert not [one for one in shown.all("a") if "example.invalid" in one.attributes["href"]]
        skeletons.append(
            [
                tag
                for tag in shown.skeleton
                if tag in {"<h1>", "<h2>", "<table>", "<pre>", "<a>", "<ul>", "<li>"}
            ]
        )
        feeds.append([one.tag for one in ET.fromstring(found["feed.xml"].text).iter()])
        json.loads(found["data/catalogue.json"].text)
    assert skeletons[0] == skeletons[1]
    assert feeds[0] == feeds[1]


def former(*ids: str) -> Runbook:
    return parse(TEXT.replace("number: 7\n", f"number: 7\nformerly: [{', '.join(ids)}]\n"), Path("small.md"))


def test_a_former_id_leads_to_the_entry_and_its_records_count() -> None:
    old = [
        one.model_copy(update={"runbook": one.runbook.model_copy(update={"id": "tiny-one"})})
        for one in records(entry())
    ]
    found = pages(*old, runbooks=(former("tiny-one"),))
    page = found["entries/tiny-one.html"].text
    assert 'content="0; url=small.html"' in page
    assert 'location.replace("small.html" + location.hash)' in page
    assert "410 MB/s" in found["entries/small.md"].text
    latest = json.loads(found["data/latest.json"].text)
    assert {one["runbook"] for one in (*latest["entries"], *latest["steps"])} == {"small"}


def test_an_address_leads_to_one_entry_only(tmp_path: Path) -> None:
    other = TEXT.replace("id: small\nnumber: 7", "id: other\nnumber: 8\nformerly: [small, old]")
    file = tmp_path / "other.md"
    file.write_text(other, encoding="utf-8")
    (taken, twice) = folder_faults((former("old"), parse(other, file)))
    assert "formerly 'small' is also an id of small" in str(taken)
    assert "formerly 'old' is also an id of small" in str(twice)


@pytest.fixture(scope="module")
def thousand() -> dict[str, Page]:
    one = entry()
    runbooks = tuple(
        one.model_copy(
            update={
                "head": one.head.model_copy(update={"id": f"e{number}", "number": number}),
                "path": Path(f"e{number}.md"),
            }
        )
        for number in range(1, 1001)
    )
    found = [
        run(
            runbook,
            result(
                runbook,
                "busbw",
                measurement(4e8, 3e8, 4e8, 5e8, bytes=8 * 2**30),
                status=StepStatus.SYMPTOM if runbook.head.number == 777 else StepStatus.PASSED,
            ),
            machine=machine(*gpus),
            preset="70b" if gpus else "tiny",
            run_id=f"{runbook.id}-{len(gpus)}",
        )
        for runbook in runbooks
        for gpus in ([], ["NVIDIA B200"] * 8, ["NVIDIA H200"] * 8)
    ]
    return render(runbooks, found, NOW, TEMPLATES)


def test_with_a_thousand_entries_no_page_is_heavy(thousand: dict[str, Page]) -> None:
    # The theme adds about 20 KB to what stands here.
    heavy = {
        path: len(page.text)
        for path, page in thousand.items()
        if path.endswith(".md") and len(page.text) > 250_000
    }
    assert not heavy


def test_with_a_thousand_entries_the_start_page_shows_those_that_need_somebody(
    thousand: dict[str, Page],
) -> None:
    start = read_html(thousand["index.md"].text)
    rows = start.one("table").one("tbody").all("tr")
    assert len(rows) == ROWS_AT_START
    assert rows[0].one("th").words.startswith("777.")
    assert "980 more" in start.words
    listed = [
        link.attributes["href"]
        for path in sorted(path for path in thousand if re.fullmatch(r"entries/(index|page-\d+)\.md", path))
        for link in read_html(thousand[path].text).one("table").all("a")
    ]
    assert sorted(listed) == sorted(f"e{number}.html" for number in range(1, 1001))
