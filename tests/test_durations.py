"""How long a step is expected to take, by the records that a run finds."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.entry.digest import current_digest
from runner.hardware.machine import Machine
from runner.record.durations import Expected, expected_durations, newest_records
from runner.record.model import Options, Record, StepStatus
from runner.record.store import Store
from tests.builders import a_gpu, a_machine, eight_b200
from tests.evidence_samples import B200, machine, record, runbook, step

ENTRY = runbook(busbw="diagnose")
NOW = current_digest(ENTRY, ENTRY.steps[0])
OTHER_CPU = machine(machine_class="cpu-x86_64-64c")


def ran(seconds: float, day: int = 1, **changes: Any) -> Record:
    """A record of the one step, taken on a day of November."""
    of_step = {"digest": changes.pop("digest", NOW), "status": changes.pop("status", StepStatus.PASSED)}
    fields = {"run_id": f"r{day}", "started_at": datetime(2026, 11, day, tzinfo=UTC)} | changes
    return record(step(duration_s=seconds, **of_step), **fields)


def options(preset: str = "tiny", within: float | None = None) -> Options:
    return Options(preset=preset, phases=(), within=within)


def expected(*records: Record, here: Machine | None = None) -> Expected:
    return expected_durations(ENTRY, "tiny", here or machine(), records)["busbw"]


def test_the_newest_finished_run_of_a_step_says_how_long_it_takes() -> None:
    assert expected(ran(10, 2), ran(20, 3), ran(30, 1)) == Expected(20, measured=True)


def test_a_run_that_did_not_finish_says_nothing() -> None:
    broken = [ran(20, 4, status=status) for status in StepStatus if not status.finished]
    assert expected(ran(10, 2), *broken) == Expected(10, measured=True)


def test_a_step_that_is_not_applicable_on_this_class_or_count_of_gpus_takes_as_long_as_it_took_to_find_out() -> (
    None
):
    skipped = ran(0.7, 4, status=StepStatus.SKIPPED)
    assert expected(skipped) == Expected(0.7, measured=True)
    assert not expected(ran(0.7, 4, status=StepStatus.SKIPPED, machine=OTHER_CPU)).measured
    other_gpu = a_machine((a_gpu(name="NVIDIA H200"),))
    of_one_gpu = ran(0.7, 4, status=StepStatus.SKIPPED, machine=other_gpu)
    assert expected(of_one_gpu, here=a_machine((a_gpu(),))) == Expected(0.7, measured=True)
    assert not expected(of_one_gpu, here=eight_b200()).measured


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (ran(10, 1), ran(20, 9, machine=OTHER_CPU)),
        (ran(10, 1, machine=OTHER_CPU), ran(20, 9, digest="0" * 16)),
        (ran(10, 1), ran(20, 9, digest="0" * 16)),
        (ran(10, 1), ran(20, 9, options=options(within=60.0))),
        (ran(10, 1, machine=OTHER_CPU), ran(20, 9, machine=OTHER_CPU, digest="0" * 16)),
    ],
    ids=[
        "this class",
        "the step as it is, on whatever class",
        "the step as it is",
        "no limit",
        "elsewhere too",
    ],
)
def test_a_better_witness_counts_before_a_newer_one(better: Record, worse: Record) -> None:
    assert expected(better, worse) == expected(worse, better) == Expected(10, measured=True)


@pytest.mark.parametrize(
    "of_something_else",
    [
        ran(20, machine=machine(B200)),
        ran(20, options=options("8b")),
        ran(20, simulated=True),
        ran(20, runbook=record().runbook.model_copy(update={"id": "another"})),
    ],
    ids=["a GPU", "a preset", "a stand-in", "an entry"],
)
def test_without_a_record_of_this_kind_it_is_a_guess_from_the_deadline(of_something_else: Record) -> None:
    assert expected(of_something_else) == Expected(30, measured=False)


def test_a_guess_is_a_minute_at_most() -> None:
    (long,) = ENTRY.steps
    slow = ENTRY.model_copy(
        update={
            "sections": (
                ENTRY.sections[0].model_copy(update={"body": (long.model_copy(update={"timeout": 3000.0}),)}),
            )
        }
    )
    assert expected_durations(slow, "tiny", machine(), [])["busbw"] == Expected(60, measured=False)


def test_records_are_read_from_every_folder_the_newest_few_of_each_class(tmp_path: Path) -> None:
    mine, published = tmp_path / "mine", tmp_path / "published"
    for day in range(1, 10):
        Store(mine, secrets=()).save(ran(day, day))
    Store(published, secrets=()).save(ran(100, 1, machine=OTHER_CPU))
    Store(published, secrets=()).save(
        ran(7, 1, runbook=record().runbook.model_copy(update={"id": "another"}))
    )
    found = [one.steps[0].duration_s for one in newest_records([mine, published, mine], {"nvlink"})]
    assert found == [5, 6, 7, 8, 9, 100]


def test_what_cannot_be_read_is_no_reason_not_to_run(tmp_path: Path) -> None:
    place = Store(tmp_path, secrets=()).save(ran(10))
    place.with_name("20991231T000000Z-x.json").write_text("{", encoding="utf-8")
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    found = list(newest_records([tmp_path, tmp_path / "file", tmp_path / "missing"], {"nvlink"}))
    assert [one.run_id for one in found] == ["r1"]
