"""The live view of a campaign, on a terminal and in a log, and the report at its end."""

import io

import pytest
from rich.console import Console

from runner.cli.fleet_view import FleetProgress, fleet_report
from runner.fleet.campaign import CampaignJob, JobProgress
from runner.fleet.gathering import Gathered
from runner.history.campaigns import NodeRow, distributions
from runner.record.model import Outcome
from tests.test_fleet import a_run, sound


def a_job(number: int, progress: JobProgress = JobProgress.RUNNING, reason: str | None = None) -> CampaignJob:
    alias = f"node-{number:06}"
    return CampaignJob(
        key=alias,
        nodes=(f"gpu[{number}]",),
        aliases=(alias,),
        entries=("e",),
        job_id="7",
        progress=progress,
        reason=reason,
    )


def shown(jobs: list[tuple[CampaignJob, str]]) -> str:
    out = io.StringIO()
    with FleetProgress(
        Console(file=out, force_terminal=True, width=120, height=60, color_system=None)
    ) as view:
        for job, said in jobs:
            view.job_changed(job, said)
    return out.getvalue()


def test_on_a_terminal_every_node_has_one_line_with_what_it_says_last() -> None:
    text = shown(
        [(a_job(1), "first"), (a_job(1), "step [two]"), (a_job(2, JobProgress.REFUSED, "drained"), "")]
    )
    last = text.split("\x1b[2K")[-3:]
    joined = "".join(last)
    assert "gpu[1] [node-000001]" in joined
    assert "step [two]" in joined
    assert "first" not in joined
    assert "drained" in joined


def test_of_a_thousand_nodes_the_counts_and_those_at_work_are_shown() -> None:
    jobs = [(a_job(number, JobProgress.OVER), "") for number in range(990)]
    text = shown([*jobs, *((a_job(number), f"working {number}") for number in range(990, 1000))])
    assert "1000 jobs:" in text
    assert "990 over" in text
    assert "working 995" in text
    assert "node-000003" not in text.rpartition("1000 jobs:")[2]


def test_in_a_log_a_node_has_a_line_for_each_state_and_none_for_each_word() -> None:
    out = io.StringIO()
    with FleetProgress(Console(file=out, width=120)) as view:
        for progress, said in (
            (JobProgress.WAITING, ""),
            (JobProgress.RUNNING, "a"),
            (JobProgress.RUNNING, "b"),
        ):
            view.job_changed(a_job(1, progress), said)
    assert out.getvalue().splitlines() == [
        "gpu[1] [node-000001] (job 7) waiting",
        "gpu[1] [node-000001] (job 7) running",
    ]


def report(rows: int, width: int = 150) -> str:
    out = io.StringIO()
    records = (*sound(rows - 2), a_run(rows - 2, 70e9), a_run(rows - 1, 70e9))
    names = {record.node_alias: f"gpu{place}" for place, record in enumerate(records)}
    found = [NodeRow(alias, "done", None, {"nvlink": Outcome.HEALTHY}) for alias in names]
    found[0] = NodeRow(found[0].node_alias, "error", "its node failed", {})
    gathered = Gathered(tuple(found), records, (), names)
    fleet_report(Console(file=out, width=width), "c", gathered, distributions(records))
    return out.getvalue()


def test_the_report_has_nodes_distribution_suspects_and_counts() -> None:
    text = report(20, 240)
    assert "its node failed" in text
    assert "gpu19" in text
    assert "94.9 GB/s … 105 GB/s" in text
    assert "2 of 20 nodes are 30% below the median (node-000018, node-000019)" in text
    assert "19 of 20 jobs returned every record, 1 failed, 0 not finished; 20 records" in text


def test_a_drill_that_passed_on_a_node_says_what_was_not_measured() -> None:
    out = io.StringIO()
    reasons = {"nvlink": ("verify/graphs: needs 1 GPU, this host has none",)}
    row = NodeRow("node-000000", "done", None, {"nvlink": Outcome.DRILL_PASSED}, reasons)
    fleet_report(Console(file=out, width=200), "c", Gathered((row,), (), (), {}), ())
    assert "nvlink drill passed (verify/graphs: needs 1 GPU, this host has none)" in out.getvalue()


def test_a_report_on_many_nodes_lists_those_that_need_a_look() -> None:
    text = report(200)
    assert "its node failed" in text
    assert "gpu7 " not in text
    assert "199 of 200 jobs" in text


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_screen_breaks_no_report(width: int) -> None:
    assert "30% below the median" in " ".join(report(20, width).split())
