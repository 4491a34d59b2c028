"""Pages from runbooks and records: what a reader is told, and that nothing from outside is interpreted.

The golden pages are tests/golden/*.md. Where a page changes on purpose, write them anew and read the difference:

    UPDATE_GOLDEN=1 python -m pytest tests/test_pages.py; git diff tests/golden
"""

import html
import json
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

import markdown  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mkdocs.config import load_config

from runner.entry.model import Runbook
from runner.entry.parse import parse
from runner.evidence.record import Outcome, Record, StepStatus, record_schema
from runner.pages.render import Page, record_path, render
from runner.pages.text import age, cell, day, inert, plain
from runner.pages.view import condition_text
from tests.evidence_samples import machine, measurement
from tests.golden_entry import NOW, START, TEXT, drilled, entry, records, result, run
from tests.hostile import EVERYTHING, HOSTILE
from tests.html_reader import Element, read_html

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "kb" / "_templates"
GOLDEN = Path(__file__).parent / "golden"
CPU, H100, B200 = "cpu-example-x86_64-2c", "2xH100-80GB", "8xB200-180GB"


def pages(*found: Record, unreadable: int = 0, now: datetime = NOW) -> dict[str, Page]:
    return render([entry()], found, now, TEMPLATES, range(unreadable))


def page(*found: Record) -> str:
    return pages(*found)["entries/small.md"].text


def table(text: str, step: str) -> dict[str, Element]:
    """The rows of a step's evidence by machine class; those of its bounds belong to the class above them."""
    region = next(
        one
        for one in read_html(text).all("div", role="region")
        if one.attributes["aria-label"] == f"Evidence of step {step}"
    )
    rows: dict[str, Element] = {}
    name = ""
    for row in region.one("tbody").all("tr"):
        heads = row.all("th")
        name = heads[0].words if heads else name
        rows.setdefault(name, Element("", {})).children += [row, " "]
    return rows


@pytest.mark.parametrize(
    ("name", "path"),
    [("entry.md", "entries/small.md"), ("index.md", "index.md"), ("latest.json", "data/latest.json")],
)
def test_a_page_is_the_golden_one(name: str, path: str) -> None:
    _is_golden(pages(*records(entry()), unreadable=1)[path].text, GOLDEN / name)


def test_a_start_page_with_a_drill_a_proof_and_a_narrower_run_is_the_golden_one() -> None:
    _is_golden(pages(*drilled(entry()))["index.md"].text, GOLDEN / "drill.md")


def _is_golden(text: str, golden: Path) -> None:
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_the_same_records_give_the_same_pages_in_whatever_order_they_are_read() -> None:
    found = records(entry())
    assert pages(*found) == pages(*reversed(found))


def test_an_unmeasured_class_reads_unmeasured_and_is_never_blank() -> None:
    text = page(*records(entry()))
    for step in ("busbw", "wiring", "mend", "again"):
        row = table(text, step)[B200]
        assert "unmeasured" in row.words
        assert "never" in row.words
        assert all(one.words for one in row.all("tr")[0].all("td"))
    assert "unmeasured" in page()


def test_every_cell_of_the_matrix_says_something() -> None:
    matrix = read_html(pages(*records(entry()))["index.md"].text).one("table")
    assert [one.words for one in matrix.one("thead").all("th")] == ["Entry", H100, B200, CPU]
    assert all(one.words for one in matrix.all("td"))
    assert "not fixed" in matrix.words
    assert "3 days ago" in matrix.words
    assert "2026-11-01 08:00 UTC" in {one.attributes["title"] for one in matrix.all("time")}


def test_a_number_of_one_class_never_stands_under_another() -> None:
    text = page(*records(entry()))
    rows = table(text, "busbw")
    assert set(rows) == {CPU, H100, B200}
    assert "410 MB/s" in rows[CPU].words
    assert "350 GB/s" in rows[H100].words
    for number, home in (("410 MB/s", CPU), ("350 GB/s", H100), ("120 GB/s", H100)):
        assert [name for name in rows if number in rows[name].words] in ([home], [])
    matrix = read_html(pages(*records(entry()))["index.md"].text).one("table").one("tbody").all("td")
    assert [re.findall(r"[\d,.]+ [MG]B/s", one.words) for one in matrix][1] == []


def test_numbers_of_two_classes_stay_apart_whichever_is_newer() -> None:
    runbook = entry()
    for days in (-5, 5):
        cpu, gpus = records(runbook)
        gpus = gpus.model_copy(update={"started_at": cpu.started_at + timedelta(days=days)})
        rows = table(page(cpu, gpus), "busbw")
        assert "410 MB/s" in rows[CPU].words
        assert "410 MB/s" not in rows[H100].words
        assert "350 GB/s" not in rows[CPU].words


def test_a_skipped_step_has_its_reason() -> None:
    row = table(page(*records(entry())), "wiring")[CPU]
    assert "skipped" in row.words
    assert "no NVIDIA GPU on this host" in row.words


def test_a_step_that_broke_in_the_newest_run_still_shows_its_newest_number() -> None:
    runbook = entry()
    newer = run(
        runbook,
        result(runbook, "busbw", status=StepStatus.ERROR, reason="killed by SIGSEGV", exit_status=139),
        started_at=START + timedelta(hours=5),
        outcome=Outcome.INCOMPLETE,
        run_id="c" * 12,
    )
    found = pages(*records(runbook), newer)
    assert "410 MB/s" in table(found["entries/small.md"].text, "busbw")[CPU].words
    assert "incomplete" in read_html(found["index.md"].text).one("table").words


def test_a_stale_number_is_marked_and_a_fresh_one_is_not() -> None:
    text = page(*records(entry()))
    assert "stale" in table(text, "wiring")[H100].words
    assert "stale" not in table(text, "busbw")[H100].words
    matrix = read_html(pages(*records(entry()))["index.md"].text).one("table").one("tbody").all("td")
    stale = ["stale" in one.words for one in matrix]
    assert stale == [True, False, False]


def test_an_unsourced_expectation_shows_its_verdict_and_decides_nothing() -> None:
    row = table(page(*records(entry())), "busbw")[CPU]
    (bound,) = [one for one in row.all("tr") if "It should reach 700 GB/s." in one.words]
    assert "missed" in bound.words
    assert "decides nothing" in bound.words
    assert "passed" in row.all("tr")[0].words
    assert "nobody knows where from" in bound.words


def test_a_bound_stands_only_under_the_hardware_that_it_is_meant_for() -> None:
    rows = table(page(*records(entry())), "busbw")
    having = {
        name: [one for one in row.all("tr") if "a tenth below" in one.words] for name, row in rows.items()
    }
    assert [name for name, found in having.items() if found] == [H100]
    assert "met" in having[H100][0].words.split()
    assert "decides nothing" not in having[H100][0].words


def test_a_bound_for_hardware_that_no_class_has_is_still_on_the_page() -> None:
    alone = [record for record in records(entry()) if record.machine.machine_class == CPU]
    text = page(*alone)
    assert not any("a tenth below" in row.words for row in table(text, "busbw").values())
    (elsewhere,) = read_html(text).all("details", class_="rb-elsewhere")
    assert "on 2 × H100" in elsewhere.words
    assert "a tenth below" in elsewhere.words


def test_a_claim_reads_confirmed_contradicted_or_undecided_for_each_class() -> None:
    region = next(
        one
        for one in read_html(page(*records(entry()))).all("div", role="region")
        if one.attributes["aria-label"] == "Claims"
    )
    assert [one.words for one in region.one("thead").all("th")][1:] == [H100, B200, CPU]
    slow, nobody = region.one("tbody").all("tr")
    assert [one.words.split()[0] for one in slow.all("td")] == ["contradicted", "undecided", "confirmed"]
    assert [one.words.split()[0] for one in nobody.all("td")] == ["undecided"] * 3


def test_nothing_measured_on_stand_ins_is_shown() -> None:
    runbook = entry()
    step = result(runbook, "busbw", measurement(1.23e11, bytes=8 * 2**30), stdout_tail="1.23e11")
    stand_in = machine(*["NVIDIA B200"] * 8, simulated=True)
    for simulated in (
        run(runbook, step, machine=stand_in, preset="70b", simulated=True),
        run(runbook, step, machine=stand_in, preset="70b", simulated=False),
    ):
        assert pages(simulated) == pages()


def test_a_number_of_another_preset_is_not_the_headline_of_its_class() -> None:
    runbook = entry()
    other = run(
        runbook,
        result(runbook, "busbw", measurement(9.99e11, bytes=8 * 2**30)),
        preset="8b",
        started_at=START + timedelta(hours=1),
        run_id="d" * 12,
    )
    found = pages(*records(runbook), other)
    assert "999 GB/s" not in found["entries/small.md"].text
    assert "410 MB/s" in found["entries/small.md"].text
    assert "999" in found["data/latest.json"].text


def several_nodes(**changes: object) -> list[Record]:
    runbook = entry()
    return [
        run(
            runbook,
            result(runbook, "busbw", measurement(value, bytes=8 * 2**30), **(changes if number == 1 else {})),
            node_alias=f"node-{number}",
            run_id=f"{number:012x}",
            started_at=START + timedelta(hours=number),
        )
        for number, value in enumerate((2.2e8, 4.4e8, 3.5e8))
    ]


def test_several_nodes_of_a_class_show_their_median_range_and_count() -> None:
    row = table(page(*several_nodes()), "busbw")[CPU]
    assert "350 MB/s" in row.words
    assert "220 MB/s … 440 MB/s, median of 3 nodes" in row.words


def test_a_node_that_measured_another_way_is_not_counted_with_the_rest() -> None:
    row = table(page(*several_nodes(digest="feedfeedfeedfeed")), "busbw")[CPU]
    assert "285 MB/s" in row.words
    assert "220 MB/s … 350 MB/s, median of 2 nodes" in row.words


def test_every_number_leads_to_the_record_it_came_from_and_the_record_is_published() -> None:
    found = pages(*records(entry()))
    links = {
        one.attributes["href"].removeprefix("../")
        for one in read_html(found["entries/small.md"].text).all("a")
        if one.words == "record"
    }
    assert links == {record_path(one) for one in records(entry())}
    for one in records(entry()):
        assert Record.model_validate_json(found[record_path(one)].text) == one
    assert json.loads(found["data/record.schema.json"].text) == record_schema()


def test_a_record_of_an_entry_that_is_gone_is_not_shown() -> None:
    runbook = entry()
    found = pages(run(runbook.model_copy(update={"head": runbook.head.model_copy(update={"id": "gone"})})))
    assert not [path for path in found if "records/" in path or "gone" in path]


@pytest.mark.parametrize(
    ("count", "says"), [(1, "1 file of the data folder"), (3, "3 files of the data folder")]
)
def test_files_that_are_no_records_are_counted_on_the_start_page(count: int, says: str) -> None:
    assert says in pages(unreadable=count)["index.md"].text
    assert "could not be read" not in pages()["index.md"].text


def test_a_page_knows_the_file_that_an_editor_should_open() -> None:
    found = pages(*records(entry()))
    assert found["entries/small.md"].source == "runbooks/small.md"
    assert found["reference/measurements.md"].source == "runner/catalogue/__init__.py"
    assert found["data/latest.json"].source is None


def test_a_command_is_shown_exactly_as_it_runs() -> None:
    command = "cat <<'EOF'\n```\n  {{ 7*7 }} <b>&lt;</b> --8<-- x\n````\n\n!!! note\nEOF"
    text = TEXT.replace(
        "```bash {#mend safety=changes-host}\ntrue\n```", f"`````bash {{#mend}}\n{command}\n`````"
    )
    runbook = entry_of(text)
    built = to_html(render([runbook], [], NOW, TEMPLATES)["entries/small.md"].text)
    assert command in [one.text.rstrip("\n") for one in built.all("code")]


def entry_of(text: str) -> Runbook:
    return parse(text, Path("small.md"))


def to_html(text: str) -> Element:
    """A page as the site's own Markdown settings turn it into HTML."""
    config = load_config(str(ROOT / "mkdocs.yml"), plugins=[])
    return read_html(
        markdown.markdown(text, extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
    )


PIECES = st.sampled_from(
    [*HOSTILE, "\n", " ", "\t", "\x02", "\x03", "\x1b", "\x1b[", "`", "<", "&", "|", "*"]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=8).map("".join)


@given(TEXTS)
@example(EVERYTHING)
def test_text_from_outside_is_shown_as_it_is_and_interpreted_by_nobody(text: str) -> None:
    safe = str(inert(text))
    # HTML alone: the very same text, without escape sequences and controls.
    assert html.unescape(safe) == plain(text)
    assert not re.search(r"[\n<>\"'`{}\[\]*_|\x00-\x1f]", safe)
    # Through Markdown, where it stands in a raw block.
    shown = read_html(
        markdown.markdown(f"# A\n\n<pre>{safe}</pre>\n\nafter", extensions=["tables", "admonition"])
    )
    assert shown.skeleton == ["<>", "<h1>", "</h1>", "<pre>", "</pre>", "<p>", "</p>", "</>"]
    assert shown.one("pre").text == plain(text)


@given(TEXTS)
@example(EVERYTHING)
def test_a_short_text_stays_on_one_line_and_keeps_its_words(text: str) -> None:
    shown = html.unescape(str(cell(text)))
    assert "\n" not in shown
    assert shown == plain(" ".join(text.split()))


@given(TEXTS)
@example(EVERYTHING)
def test_plain_text_has_no_control_characters_and_no_more_to_take_out(text: str) -> None:
    shown = plain(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    assert plain(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;https://example.invalid\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("\x00\x02\x03\x7f\x85\u2028", "␀␂␃␡\\x85\\u2028"),
        ("a\tb\n", "a\tb\n"),
    ],
)
def test_escape_sequences_go_and_other_controls_show_as_pictures(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("ago", "says"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(days=70), "2 months ago"),
        (timedelta(days=800), "2 years ago"),
    ],
)
def test_an_age_is_said_in_the_largest_unit_that_fits(ago: timedelta, says: str) -> None:
    assert age(NOW - ago, NOW) == says


def test_a_moment_is_said_in_utc() -> None:
    assert day(datetime.fromisoformat("2026-11-23T10:15:00+02:00")) == "2026-11-23 08:15 UTC"


def test_a_bound_is_said_in_words() -> None:
    floor = entry().head.expectations[0]
    assert condition_text(floor) == "busbw.bus_bandwidth (bytes 8GiB) at least 100 GB/s, on 2 × H100"
