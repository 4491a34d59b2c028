"""The fleet page: numbers over nodes, aliases alone, and no markup from outside."""

import html
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runner.entry.model import Phase
from runner.pages.evidence import gather
from runner.pages.fleet import CampaignView, campaign_views
from runner.pages.render import render
from runner.record.model import Record, StepStatus
from tests.evidence_samples import runbook, step
from tests.html_reader import read_html
from tests.test_fleet import a_run, sound

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 11, 2, tzinfo=UTC)
ENTRY = runbook(busbw="diagnose", verified="verify")


def views(records: list[Record]) -> tuple[CampaignView, ...]:
    return campaign_views(gather(records, (ENTRY,)).campaigns)


def page(records: list[Record]) -> str:
    return render((ENTRY,), records, NOW, ROOT / "kb" / "_templates")["fleet.md"].text


def test_without_a_campaign_the_page_says_that_there_is_none() -> None:
    alone = [one.model_copy(update={"campaign": None}) for one in sound(4)]
    assert "No campaign over several nodes has been published." in page(alone)
    assert "No campaign over several nodes has been published." in page(sound(1))


def test_the_page_names_suspects_by_alias_with_bounds_and_outcomes() -> None:
    said = html.unescape(page([*sound(20), a_run(98, 70e9), a_run(98, 70e9, again=True)]))
    assert "21 nodes" in said
    assert "1 of 21 nodes is 30% below the median (node-000098); confirmed by a second run: 1 of 1" in said
    assert "21 healthy" in read_html(said).words
    assert "95.0 GB/s … 105 GB/s" in said


def test_simulated_records_are_never_part_of_a_campaign() -> None:
    records = [one.model_copy(update={"simulated": True}) for one in sound(20)]
    assert views(records) == ()


def test_what_a_record_calls_its_campaign_stays_text() -> None:
    evil = [one.model_copy(update={"campaign": "<b>x</b>{{ 7 * 7 }}"}) for one in sound(6)]
    text = page(evil)
    assert "<b>" not in text
    assert "{{" not in text


def test_campaigns_come_newest_first() -> None:
    later = [
        one.model_copy(update={"campaign": "later", "started_at": one.started_at + timedelta(days=1)})
        for one in sound(3)
    ]
    assert [view.id for view in views([*sound(3), *later])] == ["later", "c"]


def test_drills_that_passed_are_counted_apart_with_what_was_not_measured() -> None:
    drilled = [
        one.model_copy(
            update={
                "steps": (
                    step("busbw", status=StepStatus.SYMPTOM, started_at=NOW),
                    step("verified", phase=Phase.VERIFY, started_at=NOW),
                    step("seen", phase=Phase.VERIFY, status=StepStatus.SKIPPED, reason="no GPU"),
                )
            }
        )
        for one in sound(3)
    ]
    entry = runbook(busbw="diagnose", verified="verify", seen="verify")
    text = render((entry,), drilled, NOW, ROOT / "kb" / "_templates")["fleet.md"].text
    words = read_html(text).words
    assert "3 drill passed the fault was found and undone; its effect was not measured" in words
    assert "verify/seen: no GPU" in words
    assert "fix proved" not in words
