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

from runner.entry.model import Runbook, Signature
from runner.entry.parse import parse
from runner.pages.render import Page, record_path, render
from runner.pages.text import age, captured_text, cell, day, inert
from runner.pages.view import condition_text
from runner.record.model import Outcome, Record, StepStatus
from runner.record.schema import record_schema
from runner.vocabulary import METRICS
from tests.evidence_samples import machine, measurement
from tests.golden_entry import NOW, START, TEXT, drilled, ended_as, entry, records, result, run
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


def test_a_number_of_other_work_than_was_asked_for_is_marked_wherever_it_stands() -> None:
    runbook = entry()
    why = "bf16: not compiled: 0 s are left for it"
    cpu, gpus = records(runbook)
    fell = [one.model_copy(update={"fallback_reason": why, "fallback_asked": True}) for one in cpu.steps]
    found = pages(cpu.model_copy(update={"steps": tuple(fell)}), gpus)
    rows = table(found["entries/small.md"].text, "busbw")
    assert "410 MB/s with a fallback" in rows[CPU].words
    assert f"fallback: {why}" in rows[CPU].words
    assert "fallback" not in rows[H100].words
    captured_text = [found[path].text for path in ("index.md.txt", "entries/small.md.txt", "index.md")]
    text = read_html(found["entries/small.md"].text)
    folded = [one.words for one in text.all("span", **{"class": "rb-seen"})]
    standing = [one.words for one in text.all("section", **{"class": "rb-standing"})]
    for said in (*captured_text, " ".join(folded), " ".join(standing)):
        assert "with a fallback" in said


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
    assert "informative only" in bound.words
    assert "passed" in row.all("tr")[0].words
    assert "nobody knows where from" in bound.words


def test_a_bound_stands_only_under_the_hardware_that_it_is_meant_for() -> None:
    rows = table(page(*records(entry())), "busbw")
    having = {
        name: [one for one in row.all("tr") if "a tenth below" in one.words] for name, row in rows.items()
    }
    assert [name for name, found in having.items() if found] == [H100]
    assert "met" in having[H100][0].words.split()
    assert "informative only" not in having[H100][0].words


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
    assert found["reference/measurements.md"].source == "runner/vocabulary/__init__.py"
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
    assert html.unescape(safe) == captured_text(text)
    assert not re.search(r"[\n<>\"'`{}\[\]*_|\x00-\x1f]", safe)
    # Through Markdown, where it stands in a raw block.
    shown = read_html(
        markdown.markdown(f"# A\n\n<pre>{safe}</pre>\n\nafter", extensions=["tables", "admonition"])
    )
    assert shown.skeleton == ["<>", "<h1>", "</h1>", "<pre>", "</pre>", "<p>", "</p>", "</>"]
    assert shown.one("pre").text == captured_text(text)


@given(TEXTS)
@example(EVERYTHING)
def test_a_short_text_stays_on_one_line_and_keeps_its_words(text: str) -> None:
    shown = html.unescape(str(cell(text)))
    assert "\n" not in shown
    assert shown == captured_text(" ".join(text.split()))


@given(TEXTS)
@example(EVERYTHING)
def test_plain_text_has_no_control_characters_and_no_more_to_take_out(text: str) -> None:
    shown = captured_text(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    assert captured_text(shown) == shown


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
    assert captured_text(text) == shown


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


def test_a_bound_is_stated_in_words() -> None:
    floor = entry().head.expectations[0]
    assert condition_text(floor) == (
        "Bus bandwidth (bytes 8GiB) of step busbw at least 100 GB/s, on 2 × H100"
    )


def entry_page(runbook: Runbook, *found: Record, **options: object) -> Element:
    shown = render([runbook], found, NOW, TEMPLATES, **options)  # type: ignore[arg-type]
    return to_html(shown["entries/small.md"].text)


REPRODUCED = TEXT.replace("## Verify\n", "## Reproduce\n\n```bash {#broken}\nA_B=1 true\n```\n\n## Verify\n")


def test_the_start_page_has_an_entry_whose_signatures_say_nothing_of_their_meaning() -> None:
    head = entry().head.model_copy(update={"signatures": (Signature(pattern="boom"),)})
    shown = render([entry().model_copy(update={"head": head})], [], NOW, TEMPLATES)["index.md"].text
    assert "entries/small.html" in shown
    assert "in its log" not in shown


def test_an_entry_opens_with_its_symptom_then_the_commands_by_hand_then_the_tool() -> None:
    built = entry_page(entry_of(REPRODUCED))
    headings = [one.words.rstrip("¶").strip() for one in built.all("h2")]
    assert headings[:8] == [
        "By hand",
        "The same with runbook",
        "Symptom",
        "Root cause",
        "Diagnose",
        "Fix",
        "Reproduce",
        "Verify",
    ]
    blocks = [one.words for one in built.all("pre")]
    assert blocks[:2] == ["nvidia-smi topo -m", "runbook run 7"]


def test_an_entry_names_each_way_to_the_tool_and_links_the_one_file_where_the_site_has_it() -> None:
    without, with_it = entry_page(entry()), entry_page(entry(), bundle=True)
    for built in (without, with_it):
        for command in ("pip install llm_runbooks-*.whl", "nox -s runbook-7", "python3 runbook.pyz run 7"):
            assert command in built.words
        assert "--reproduce" not in built.words  # this entry has nothing to reproduce
    assert "runbook run 7 --reproduce" in entry_page(entry_of(REPRODUCED)).words
    assert "nox -s bundle" in without.words
    assert not [one for one in without.all("a") if "pyz" in one.attributes.get("href", "")]
    assert [
        one.attributes["href"] for one in with_it.all("a") if "pyz" in one.attributes.get("href", "")
    ] == ["../runbook.pyz"]


def test_an_entry_links_the_faq_only_where_the_site_has_its_page_with_an_item_of_that_number() -> None:
    for guides, linked in (
        ({}, False),
        ({"reference/faq.md": "# The FAQ\n\n## 1. Else\n"}, False),
        ({"reference/faq.md": "# The FAQ\n\n## 7. Small\n"}, True),
    ):
        lead = entry_page(entry(), guides=guides).all("p", class_="rb-lead")[0]
        assert ("replaces item 7 of the FAQ" in lead.words) == linked
        assert bool(lead.all("a")) == linked


def test_reproduce_is_folded_and_each_block_that_sets_the_fault_is_marked() -> None:
    text = REPRODUCED.replace("--again", "--again\n```\n\n```bash {#undone}\n(A_B=1 x)")
    built = entry_page(entry_of(text))
    (fold,) = built.all("details", class_="rb-fold")
    assert "open" not in fold.attributes
    assert [one.text.strip() for one in fold.all("pre")] == ["A_B=1 true"]
    assert "inject the fault" in fold.all("summary")[0].words
    for step, words in (("#broken safety=loads-device", "provoke the fault"), ("#broken", "only read")):
        other = text.replace("A_B=1 true", "true").replace("#broken", step)
        (plain_fold,) = entry_page(entry_of(other)).all("details", class_="rb-fold")
        assert words in plain_fold.all("summary")[0].words
    marked = [one.attributes["id"] for one in built.all("p") if "injects the fault" in one.words]
    assert marked == ["step-broken", "step-undone"]


def for_gpus(*names: str) -> Runbook:
    runbook = entry()
    return runbook.model_copy(update={"head": runbook.head.model_copy(update={"applies_to": names})})


@pytest.mark.parametrize(
    ("applies_to", "host", "said"),
    [
        (("B200", "8xH100"), (), "method checked on CPU"),
        (("B200", "8xH100"), ("NVIDIA H100 80GB HBM3",) * 2, "fix proved"),
        (("B200", "any host"), (), "fix proved"),
        ((), (), "fix proved"),
    ],
)
def test_a_proof_without_the_gpus_that_the_entry_is_for_is_called_a_check_of_the_method(
    applies_to: tuple[str, ...], host: tuple[str, ...], said: str
) -> None:
    runbook = for_gpus(*applies_to)
    proved = run(
        runbook,
        *ended_as(runbook, Outcome.FIX_PROVED),
        preset="8b" if host else "tiny",
        **({"machine": machine(*host)} if host else {}),
    )
    found = render([runbook], [proved], NOW, TEMPLATES)
    for path in ("index.md", "entries/small.md"):
        badges = {
            one.words: one.attributes["class"]
            for one in read_html(found[path].text).all("span")
            if "rb-badge" in one.attributes.get("class", "")
        }
        assert said in badges
        assert len({"method checked on CPU", "fix proved"} & set(badges)) == 1
    assert said in found["feed.xml"].text
    assert ("rb-fix_proved" in found["entries/small.md"].text) == (said == "fix proved")
    assert json.loads(found["data/latest.json"].text)["entries"][0]["outcome"] == "fix_proved"


def test_a_claim_shows_its_metric_with_the_value_and_its_source_is_no_badge() -> None:
    built = read_html(page(*records(entry())))
    (cell_,) = [one for one in built.all("td") if one.words.startswith("confirmed")]
    assert "Bus bandwidth (bytes 8GiB): 410 MB/s" in cell_.words
    sources = [one.words for one in built.all("span", class_="rb-source")]
    assert sources == ["source: reported", "no source found"]
    assert not built.all("span", class_="rb-reported")


def test_a_claim_decided_before_its_step_changed_is_marked_stale() -> None:
    changed = entry_of(TEXT.replace("--op all_reduce\n```", "--op all_reduce --timeout 20\n```", 1))
    shown = {
        stale: read_html(render([runbook], records(entry()), NOW, TEMPLATES)["entries/small.md"].text)
        for stale, runbook in ((False, entry()), (True, changed))
    }
    for stale, built in shown.items():
        (cell_,) = [one for one in built.all("td") if one.words.startswith("confirmed")]
        assert ("stale" in cell_.words) == stale


def test_a_ratio_in_a_claim_is_a_factor_of_two_named_measurements() -> None:
    text = TEXT.replace(
        "confirmed_if: {metric: busbw.bus_bandwidth, at: {bytes: 8GiB}, max: 1, unit: GB/s}",
        "confirmed_if: {metric: busbw.bus_bandwidth, at: {bytes: 8GiB}, over: busbw.bus_bandwidth, "
        "over_at: {bytes: 1MiB}, min: 1}",
    )
    shown = read_html(
        render([entry_of(text)], records(entry_of(text)), NOW, TEMPLATES)["entries/small.md"].text
    )
    assert "Bus bandwidth (bytes 8GiB) ÷ the same (bytes 1MiB): 2.92 ×" in shown.words


def test_metrics_are_named_for_people_with_the_identifier_on_hover() -> None:
    found = pages(*records(entry()))
    for path in ("index.md", "entries/small.md"):
        built = read_html(found[path].text)
        names = built.all("span", class_="rb-metric")
        assert ("wrong_elements", "Wrong elements") in {
            (one.attributes["title"].partition(":")[0], one.words) for one in names
        }
        assert all("_" not in one.words for one in names)


def test_the_measurements_are_one_table_with_a_row_each() -> None:
    found = pages()
    table_ = read_html(found["reference/measurements.md"].text).one("table")
    assert [one.attributes["id"] for one in table_.one("tbody").all("tr")] == sorted(METRICS)
    plain_ = found["reference/measurements.md.txt"].text
    assert len(re.findall(r"^\| [A-Z]", plain_, re.MULTILINE)) == len(METRICS)
    assert "<" not in plain_


def test_the_fleet_page_without_campaigns_shows_an_example_that_is_called_made_up() -> None:
    text = pages(*records(entry()))["fleet.md"].text
    assert "**The data are made up**" in text
    example = text.partition("```text")[2]
    assert not re.search(r"[MG]B/s|FLOP|B200|H[12]00", example), (
        "no unit or board that a measurement could have"
    )
