"""The fix against its fault, a number over time and its plot, and the answer at the top of a page."""

import re
import statistics
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.entry.model import Phase, Runbook
from runner.entry.parse import parse
from runner.entry.read import read_all
from runner.pages.answer import injecting, sample_line, symptom_line
from runner.pages.before_after import before_and_after
from runner.pages.change import change_text
from runner.pages.evidence import SiteEvidence, gather
from runner.pages.lists import ELSE, decision_tree
from runner.pages.plot import time_ticks, trend_plot, value_ticks
from runner.pages.render import render
from runner.pages.trends import trends
from runner.record.model import Measurement, Outcome, Record, StepStatus
from tests.evidence_samples import machine, measurement
from tests.golden_entry import NOW, START, TEXT, entry, result, run, wrong_elements
from tests.hostile import EVERYTHING
from tests.html_reader import read_html

ROOT = Path(__file__).parents[1]
GIB = 2**30
REPRODUCED = TEXT.replace(
    "## Verify\n",
    "## Reproduce\n\n```bash {#broken}\npython -m runner.probes.collectives\n```\n\n## Verify\n",
)


def broken_entry() -> Runbook:
    return parse(REPRODUCED, Path("small.md"))


def gathered(found: list[Record]) -> SiteEvidence:
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
    (pair,) = before_and_after(
        broken_entry(), gathered([proved(1e9, 1e9, 1.1e9, 1e9, after=(3e9, 3e9, 3.3e9))])
    )
    assert (pair.before.shown, pair.after.shown, pair.change.good) == ("1.00 GB/s", "3.00 GB/s", True)
    assert pair.change.text == "× 3 (2.73 … 3.30, range of the samples)"
    assert pair.before.spread == "1.00 GB/s … 1.10 GB/s (range)"
    assert (pair.before_step, pair.after_step) == ("broken", "again")


def changed_words(*found: Record) -> str:
    """The table of changes on the entry's page."""
    page = read_html(
        render([broken_entry()], found, NOW, ROOT / "kb" / "_templates")["entries/small.md"].text
    )
    (table,) = (
        one for one in page.all("div") if one.attributes.get("aria-label") == "Before and after the fix"
    )
    return table.one("tbody").words


def test_a_fix_that_makes_it_worse_is_shown_as_worse() -> None:
    assert "worse × 0.333" in changed_words(proved(3e9, 3e9, 3.1e9, 3e9, after=(1e9, 1e9, 1.1e9)))


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ((7.64e9,), (7.68e9,), "no interval: one reading each"),
        ((1e9, 1.2e9, 1.1e9), (1.15e9, 1.05e9, 1.25e9), "no clear change"),
        ((1e9, 1.1e9), (3e9, 3.3e9), "no verdict from fewer than 3 samples"),
    ],
    ids=["one reading each", "interval with 1", "two samples"],
)
def test_a_change_without_an_interval_that_excludes_none_has_no_colour(
    before: tuple[float, ...], after: tuple[float, ...], why: str
) -> None:
    words = changed_words(proved(*before, after=after))
    assert why in words
    assert not re.search("better|worse", words)


def named(name: str, *samples: float, unit: str = "1", **labels: object) -> Measurement:
    """A median of samples, or a single reading."""
    return Measurement(
        name=name,
        value=statistics.median(samples),
        unit=unit,
        statistic="median" if len(samples) > 1 else "single",
        samples=samples if len(samples) > 1 else (),
        labels=labels,
    )


def test_decibels_are_subtracted_and_never_divided() -> None:
    single = change_text(
        named("signal_to_noise", 0.473, unit="dB"), named("signal_to_noise", 28.2, unit="dB")
    )
    assert (single.text, single.good) == ("+27.7 dB", None)
    several = change_text(
        named("signal_to_noise", 10.0, 10.1, 10.2, unit="dB"),
        named("signal_to_noise", 20.0, 20.1, 20.2, unit="dB"),
    )
    assert several.text == "+10.0 dB (+9.80 dB … +10.2 dB, range of the samples)"
    assert several.good is True
    worse = change_text(
        named("signal_to_noise", 20.0, 20.1, 20.2, unit="dB"),
        named("signal_to_noise", -1.0, -1.1, -1.2, unit="dB"),
    )
    assert worse.text.startswith("−21.2 dB (")
    assert worse.good is False


def test_decibels_whose_power_no_float_can_hold_are_only_subtracted() -> None:
    found = change_text(
        named("signal_to_noise", 1.0, 2.0, 3.0, unit="dB"), named("signal_to_noise", 9e5, 9e5, 9e5, unit="dB")
    )
    assert (found.text, found.good, found.why) == ("+899,998 dB", None, "no interval")


@pytest.mark.parametrize(
    ("before", "after", "text"), [(0.0, 1.0, "no → yes"), (1.0, 0.0, "yes → no"), (0.0, 0.0, "still no")]
)
def test_a_flag_changes_in_words_and_without_a_verdict(before: float, after: float, text: str) -> None:
    found = change_text(named("compile_finished", before), named("compile_finished", after))
    assert (found.text, found.good) == (text, None)


def test_a_signed_number_and_one_from_zero_are_subtracted() -> None:
    assert change_text(named("growth_exponent", 2.49), named("growth_exponent", -0.03)).text == "−2.52"
    assert change_text(named("stale_variables", 5.0), named("stale_variables", 0.0)).text == "−5"


def armed(caller: tuple[float, ...], clean: tuple[float, ...]) -> tuple[Measurement, ...]:
    return tuple(
        measurement(statistics.median(values), *values, bytes=GIB, arm=arm)
        for arm, values in (("caller", caller), ("clean", clean))
    )


def with_clean_arm(clean: tuple[float, float, float]) -> Record:
    """A run whose control arm read this with the fault; after the fix, both arms read the same."""
    runbook = broken_entry()
    after = (2.0e9, 2.02e9, 2.04e9)
    return run(
        runbook,
        result(runbook, "broken", *armed((1.0e9, 1.01e9, 1.02e9), clean), status=StepStatus.SYMPTOM),
        result(runbook, "again", *armed(after, after), wrong_elements(0)),
    )


def test_a_control_arm_is_no_row_and_its_drift_is_taken_out_of_the_change() -> None:
    runbook = broken_entry()
    drifted = with_clean_arm((1.0e9, 1.01e9, 1.02e9))
    (pair,) = before_and_after(runbook, gathered([drifted]))
    assert "clean" not in pair.after_labels
    assert pair.change.good is None, "the control doubled as well"
    assert pair.change.text.startswith("× 1 (")
    assert pair.change.drift.startswith("the control changed × 2 (")
    healed = with_clean_arm((2.0e9, 2.01e9, 2.02e9))
    (pair,) = before_and_after(runbook, gathered([healed]))
    assert pair.change.good is True
    assert "relative to the control arm" in changed_words(healed)


def test_what_the_entry_names_as_its_proof_is_the_first_row() -> None:
    runbook = parse(
        REPRODUCED.replace(
            "proof: [again.wrong_elements]", "proof: [{metric: again.bus_bandwidth, at: {bytes: 1GiB}}]"
        ),
        Path("small.md"),
    )
    sizes = (2**20, 2**25, GIB)
    found = run(
        runbook,
        result(
            runbook, "broken", *(measurement(1e9, bytes=size) for size in sizes), status=StepStatus.SYMPTOM
        ),
        result(runbook, "again", *(measurement(2e9, bytes=size) for size in sizes)),
    )
    pairs = before_and_after(runbook, gather([found], [runbook]))
    assert pairs[0].after_labels == "bytes 1GiB"
    assert [pair.decisive for pair in pairs] == [True, False, False]


TWO_MODES = """\
---
id: small
number: 7
title: A small entry
expectations:
  - id: by-block
    metric: again.compiler_cpu_time
    at: {mode: per-block}
    max: 3
    evidence: chosen
    source: one compile
---

## Symptom

Slow.

## By hand

```bash
true
```

## Root cause

The graph.

## Diagnose

Look.

## Fix

Compile by block.

## Reproduce

```bash {#broken}
python -m runner.probes.compile_growth --curve operations
```

## Verify

```bash {#again}
python -m runner.probes.compile_growth --curve operations --modes whole per-block
```
"""


def test_where_the_fix_is_another_mode_the_mode_with_the_fault_is_no_result_of_the_fix() -> None:
    runbook = parse(TWO_MODES, Path("small.md"))
    found = run(
        runbook,
        result(
            runbook,
            "broken",
            named("compiler_cpu_time", 7.64, unit="s", mode="whole"),
            status=StepStatus.SYMPTOM,
        ),
        result(
            runbook,
            "again",
            named("compiler_cpu_time", 7.68, unit="s", mode="whole"),
            named("compiler_cpu_time", 2.2, unit="s", mode="per-block"),
        ),
    )
    (pair,) = before_and_after(runbook, gather([found], [runbook]))
    assert (pair.before.shown, pair.after.shown) == ("7.64 s", "2.20 s")
    assert (pair.before_labels, pair.after_labels) == ("mode whole", "mode per-block")


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


def test_every_version_that_a_number_depends_on_is_marked_where_it_changed() -> None:
    records = history(3e11, 3.1e11, 2e11)
    newer = records[-1].machine.model_copy(update={"nccl": "2.27.7", "kernel": "6.9.0", "os": "Other 1"})
    records[-1] = records[-1].model_copy(update={"machine": newer})
    (trend,) = trends(headlined(), gather(records))
    assert trend.changed == {2: "kernel 6.1.0 → 6.9.0, OS Example Linux 12 → Other 1"}


def test_a_plot_has_the_runs_of_every_scope() -> None:
    records = history(3e11, 3.1e11, 2e11)
    options = records[1].options.model_copy(update={"steps": ("busbw",), "within": 300.0})
    records[1] = records[1].model_copy(update={"options": options})
    (trend,) = trends(headlined(), gather(records))
    assert [point.value for point in trend.points] == [3e11, 3.1e11, 2e11]


@pytest.mark.parametrize("runs", [1, 2])
def test_fewer_than_three_runs_are_a_sentence_and_no_plot(runs: int) -> None:
    pages = render([headlined()], history(*[3e11] * runs), NOW, ROOT / "kb" / "_templates")
    assert "A plot needs three runs" in pages["entries/small.md"].text
    assert pages["entries/small.md"].text.count("300 GB/s (2026-11-0") == runs
    assert "<svg" not in pages["entries/small.md"].text


def test_an_axis_has_one_unit_and_begins_at_zero_or_is_marked_as_cut() -> None:
    (wide,) = trends(headlined(), gather(history(3e8, 5e11, 2e11)))
    assert (wide.axis[0], wide.cut) == (0.0, False)
    assert [wide.axis_text(value) for value in (1e8, 5e11)] == ["0.1 GB/s", "500 GB/s"]
    svg = trend_plot(wide, "x")
    ticks = {one.rpartition(" ")[2] for one in re.findall(r">([\d.,]+ [A-Za-z/]+)</text>", svg)}
    assert ticks == {"GB/s"}
    narrow = history(4.0e11, 4.1e11, 4.2e11)
    band = TEXT.replace("severity: low", "severity: low\nheadline: busbw").replace(
        "min: 100\n    unit: GB/s\n    on", "min: 390\n    unit: GB/s\n    on"
    )
    (close,) = trends(parse(band, Path("small.md")), gather(narrow))
    assert close.cut
    page = render([parse(band, Path("small.md"))], narrow, NOW, ROOT / "kb" / "_templates")[
        "entries/small.md"
    ]
    assert "the vertical axis is cut: it starts at " in page.text


def test_no_run_is_no_trend() -> None:
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


@given(st.floats(-1e18, 1e18), st.floats(1e-9, 1e18))
@example(0.0, 1.0)
@example(449.2, 28.0)
@example(5e-324, 0.0)
def test_the_ticks_of_values_are_two_to_six_round_numbers_on_the_axis(low: float, length: float) -> None:
    high = low + length
    ticks = value_ticks(low, high)
    if high - low < 1e-6 * abs(low) or not length:
        return
    assert 2 <= len(ticks) <= 6
    step = ticks[1] - ticks[0]
    assert all(low - step / 1e6 <= tick <= high + step / 1e6 for tick in ticks)
    assert f"{step:.3e}"[:4] in {"1.00", "2.00", "5.00"}


@given(st.integers(0, 4 * 10**9), st.integers(0, 4 * 10**9))
@example(1_700_000_000, 0)
@example(1_700_000_000, 59)
@example(1_700_000_000, 86_400)
def test_the_ticks_of_time_are_one_to_five_whole_minutes_or_the_first_moment(first: int, length: int) -> None:
    ticks = time_ticks(first, first + length)
    assert 1 <= len(ticks) <= 5
    assert all(first <= tick <= first + length for tick in ticks)
    assert all(tick % 60 == 0 for tick in ticks) or (ticks == [first] and length < 60)


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


def test_the_answer_is_one_sentence() -> None:
    assert symptom_line(entry()).markdown == "It is **slow**."
    two = TEXT.replace("It is **slow**.", "Calls of `a. b` hang. So do others.\n\nMore.")
    assert symptom_line(parse(two, Path("small.md"))).markdown == "Calls of `a. b` hang. So do others."
    assert symptom_line(parse(two.replace("`a. b`", "torch.compile"), Path("small.md"))).markdown == (
        "Calls of torch.compile hang."
    )


@pytest.mark.parametrize(
    ("symptom", "answer"),
    [
        ("```text\none. line\n\nafter a gap\n```\n\nIt stops. Always.", "It stops."),
        ("* a list. Of two\n* things\n\nIt stops. Always.", "It stops."),
        ("<details>\n\nIt stops. Always.\n\n</details>", "It stops."),
        ("See [a note. Or two](../a.md). Then stop.", "See [a note. Or two](../a.md). Then stop."),
        ("It <b>stops. At</b> once. Then it ends.", "It <b>stops. At</b> once. Then it ends."),
        ("```text\nonly a log\n```", "A \\*small\\* entry"),
    ],
)
def test_the_answer_never_begins_what_it_does_not_end(symptom: str, answer: str) -> None:
    text = re.sub(r"(?s)(## Symptom\n).*?(?=\n## )", lambda found: f"{found[1]}\n{symptom}\n", TEXT)
    runbook = parse(text, Path("small.md"))
    if "only a log" in symptom:
        runbook = runbook.model_copy(
            update={"head": runbook.head.model_copy(update={"title": "A *small* entry"})}
        )
    assert symptom_line(runbook).markdown == answer


def test_steps_that_set_the_fault_are_those_of_reproduce_and_of_verify_that_set_the_same() -> None:
    text = REPRODUCED.replace(
        "```bash {#broken}\npython -m runner.probes.collectives\n```",
        "```bash {#broken}\n(export A_B=1; x --inject-stall)\n```\n\n```bash {#plain}\nx --size=1 | env -u A_B y\n```",
    ).replace("--again", "--again\n```\n\n```bash {#undone}\n(A_B=1 x)\n```\n\n```bash {#other}\nA_B=2 x")
    assert injecting(parse(text, Path("small.md"))) == {"broken", "undone"}


def test_a_step_of_verify_that_shares_a_folder_or_a_gpu_with_the_fault_does_not_inject_it() -> None:
    text = REPRODUCED.replace(
        "```bash {#broken}\npython -m runner.probes.collectives\n```",
        "```bash {#broken}\n(D=$(mktemp -d); WIDTH=8 GPU=0 x)\n```",
    ).replace("--again", "--again\n```\n\n```bash {#sound}\n(D=$(mktemp -d); WIDTH=16 GPU=0 x)")
    assert injecting(parse(text, Path("small.md"))) == {"broken"}


def test_the_line_of_the_start_page_is_the_example_of_the_heaviest_signature_that_has_one() -> None:
    given = """signatures:
  - {pattern: "slow", weight: 9}
  - {pattern: "rank [0-9]+ is late", weight: 2, example: "12:00 rank 3 is late <b>"}
  - {pattern: "late", weight: 1, example: "late"}
claims:"""
    runbook = parse(TEXT.replace("claims:", given), Path("small.md"))
    assert sample_line(runbook) == "12:00 rank 3 is late <b>"
    assert sample_line(entry()) == ""
    pages = render([runbook], [], NOW, ROOT / "kb" / "_templates")
    (shown,) = read_html(pages["index.md"].text).all("code", class_="rb-sample")
    assert shown.text == "12:00 rank 3 is late <b>"


@pytest.mark.parametrize("runbook", read_all(ROOT / "runbooks"), ids=lambda one: one.id)
def test_every_entry_has_an_answer_and_a_way_through_the_tree(runbook: Runbook) -> None:
    assert len(symptom_line(runbook).markdown) < 300
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
