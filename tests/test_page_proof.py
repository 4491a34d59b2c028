"""The fix against its fault, a number over time and its plot, and the answer at the top of a page."""

import re
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from runner.entry.model import Phase, Runbook
from runner.entry.parse import parse
from runner.entry.read import read_all
from runner.evidence.record import Outcome, Record, StepStatus
from runner.pages.answer import ELSE, decision_tree, fix_block, symptom_line
from runner.pages.evidence import Evidence, gather
from runner.pages.plot import trend_plot
from runner.pages.proof import before_and_after, trends
from runner.pages.render import render
from tests.evidence_samples import machine, measurement
from tests.golden_entry import NOW, START, TEXT, entry, result, run, wrong_elements
from tests.hostile import EVERYTHING
from tests.html_reader import read_html

ROOT = Path(__file__).parents[1]
GIB = 2**30
REPRODUCED = TEXT.replace(
    "## Fix\n", "## Reproduce\n\n```bash {#broken}\npython -m runner.probes.collectives\n```\n\n## Fix\n"
)


def broken_entry() -> Runbook:
    return parse(REPRODUCED, Path("small.md"))


def gathered(found: list[Record]) -> Evidence:
    return gather(found, [broken_entry()])


def proved(*before: float, after: tuple[float, ...], **changes: object) -> Record:
    runbook = broken_entry()
    return run(
        runbook,
        result(runbook, "broken", measurement(before[0], *before, bytes=GIB), status=StepStatus.SYMPTOM),
        result(runbook, "again", measurement(after[0], *after, bytes=GIB), wrong_elements(0)),
        outcome=Outcome.FIX_PROVED,
        **changes,  # type: ignore[arg-type]
    )


def test_the_fix_is_shown_against_its_fault_with_spread_and_ratio_of_one_run() -> None:
    (pair,) = before_and_after(broken_entry(), gathered([proved(1e9, 1e9, 1.1e9, after=(3e9, 3e9, 3.3e9))]))
    assert (pair.before.shown, pair.after.shown, pair.good) == ("1.00 GB/s", "3.00 GB/s", True)
    assert pair.ratio.startswith("× 3 (2.73 … 3.30")
    assert pair.before.spread == "1.00 GB/s … 1.10 GB/s (range)"
    assert (pair.before_step, pair.after_step) == ("broken", "again")


def test_a_fix_that_makes_it_worse_is_said_to() -> None:
    (pair,) = before_and_after(broken_entry(), gathered([proved(3e9, after=(1e9,))]))
    assert pair.good is False
    page = render([broken_entry()], [proved(3e9, after=(1e9,))], NOW, ROOT / "kb" / "_templates")[
        "entries/small.md"
    ]
    assert "worse" in read_html(page.text).words


def test_measurements_at_other_labels_are_no_pair_and_neither_are_two_runs() -> None:
    runbook = broken_entry()
    other = run(
        runbook,
        result(runbook, "broken", measurement(1e9, bytes=1)),
        result(runbook, "again", measurement(1e9, bytes=2)),
    )
    assert before_and_after(runbook, gathered([other])) == ()
    first = run(runbook, result(runbook, "broken", measurement(1e9, bytes=GIB)), run_id="a")
    second = run(
        runbook,
        result(runbook, "again", measurement(2e9, bytes=GIB)),
        run_id="b",
        started_at=START + timedelta(1),
    )
    assert before_and_after(runbook, gathered([first, second])) == ()


def headlined() -> Runbook:
    return parse(TEXT.replace("severity: low", "severity: low\nheadline: busbw"), Path("small.md"))


def history(*values: float, **changes: object) -> list[Record]:
    runbook = headlined()
    return [
        run(
            runbook,
            result(
                runbook,
                "busbw",
                measurement(value, value * 0.9, value, value * 1.1, bytes=8 * GIB),
                **(changes if day == 0 else {}),
            ),
            preset="8b",
            machine=machine(*["NVIDIA H100 80GB HBM3"] * 2, nccl="2.27.7" if day < 2 else "2.28.1"),
            run_id=f"day-{day}",
            started_at=START + timedelta(days=day),
        )
        for day, value in enumerate(values)
    ]


def test_a_trend_has_its_points_its_band_and_what_changed() -> None:
    (trend,) = trends(headlined(), gather(reversed(history(3e11, 3.1e11, 2e11))))
    assert [point.value for point in trend.points] == [3e11, 3.1e11, 2e11]
    assert trend.changed == {2: "NCCL 2.27.7 → 2.28.1"}
    assert trend.band
    assert (trend.band.low, trend.band.high) == (1e11, None), "the bound that decides, not the hearsay"
    for part in (
        "3 runs from 2026-11-01 to 2026-11-03",
        "between 200 GB/s and 310 GB/s",
        "NCCL 2.27.7 → 2.28.1",
    ):
        assert part in trend.words


def test_a_number_taken_another_way_is_not_in_the_trend_and_is_counted() -> None:
    (trend,) = trends(headlined(), gather(history(3e11, 3.1e11, 2e11, digest="feedfeedfeedfeed")))
    assert (len(trend.points), trend.otherwise) == (2, 1)


def test_one_run_is_no_trend_and_no_run_is_none() -> None:
    pages = render([headlined()], history(3e11), NOW, ROOT / "kb" / "_templates")
    assert "One run so far; a trend needs two" in pages["entries/small.md"].text
    assert "<svg" not in pages["entries/small.md"].text
    assert trends(headlined(), gather([])) == ()


def test_a_plot_has_no_script_style_or_foreign_address_and_is_the_same_each_time() -> None:
    (trend,) = trends(headlined(), gather(history(3e11, 3.1e11, 2e11)))
    svg = trend_plot(trend, "trend-0")
    assert svg == trend_plot(trend, "trend-0")
    assert "\n" not in svg
    root = ET.fromstring(re.sub(r"^<svg", '<svg xmlns="http://www.w3.org/2000/svg"', svg))
    tags = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert tags == {"svg", "g", "path", "text", "circle", "title"}
    assert not re.search(r"https?:|url\(|style=|#[0-9a-f]{6}", svg)
    assert root.attrib["aria-label"] == trend.words
    assert len([one for one in root.iter() if one.tag.endswith("circle")]) == 3
    assert {"rb-expected", "rb-spread", "rb-versions", "rb-value"} <= {
        one.attrib.get("class") for one in root.iter()
    }


@pytest.mark.parametrize("values", [(0.0, 0.0), (5.0, 5.0), (-1.0, 2.0), (1e-9, 1e15)])
def test_numbers_of_any_size_can_be_drawn(values: tuple[float, ...]) -> None:
    (trend,) = trends(headlined(), gather(history(*values)))
    assert "NaN" not in trend_plot(trend, "x")
    assert "inf" not in trend_plot(trend, "x")


def test_text_from_outside_stays_text_in_a_plot() -> None:
    skeletons = []
    for text in ("2.28.1", EVERYTHING):
        found = [
            one.model_copy(
                update={"machine": machine(*["NVIDIA H100 80GB HBM3"] * 2, nccl=text), "node_alias": text}
            )
            if day
            else one
            for day, one in enumerate(history(3e11, 3.1e11))
        ]
        page = render([headlined()], found, NOW, ROOT / "kb" / "_templates")["entries/small.md"].text
        skeletons.append(read_html(page).skeleton)
        assert not read_html(page).all("script", "img")
    assert skeletons[0] == skeletons[1]


def test_the_answer_is_one_sentence_and_one_block() -> None:
    assert symptom_line(entry()).markdown == "It is **slow**."
    two = TEXT.replace("It is **slow**.", "Calls of `a. b` hang. So do others.\n\nMore.")
    assert symptom_line(parse(two, Path("small.md"))).markdown == "Calls of `a. b` hang. So do others."
    assert symptom_line(parse(two.replace("`a. b`", "torch.compile"), Path("small.md"))).markdown == (
        "Calls of torch.compile hang."
    )
    assert fix_block(entry()) == "", "what changes the host is read before it is run"
    harmless = TEXT.replace(" safety=changes-host", "").replace(
        "\n## Verify", "\n```bash {#more}\nb\n```\n\n## Verify"
    )
    assert fix_block(parse(harmless, Path("small.md"))) == "true\nb"
    example = TEXT.replace("```bash {#mend safety=changes-host}\ntrue", "Type\n\n```bash\nunset X")
    assert fix_block(parse(example, Path("small.md"))) == "unset X"


@pytest.mark.parametrize("runbook", read_all(ROOT / "runbooks"), ids=lambda one: one.id)
def test_every_entry_has_an_answer_and_a_way_through_the_tree(runbook: Runbook) -> None:
    assert len(symptom_line(runbook).markdown) < 300
    assert fix_block(runbook)
    assert len(runbook.head.seen) == 2
    assert any(step.phase is Phase.VERIFY for step in runbook.steps)


def test_the_tree_groups_entries_by_what_is_seen_and_counts_what_it_leaves_out() -> None:
    def seen(number: int, *texts: str) -> Runbook:
        head = entry().head.model_copy(update={"number": number, "seen": texts})
        return entry().model_copy(update={"head": head})

    tree = decision_tree(
        [seen(1), seen(2, "slow", "one"), seen(3, "dies"), seen(4, "slow", "two"), seen(5)], 1
    )
    assert [branch.text for branch in tree.branches] == ["slow", "dies", ELSE]
    assert [branch.text for branch in tree.branches[0].branches] == ["one", "two"]
    assert [one.head.number for one in tree.branches[2].entries] == [1]
    assert tree.branches[2].more == 1
