"""A campaign of 1,000 nodes after its jobs have ended: records taken in, judged, and rendered.

    python benchmarks/thousand_nodes.py

Every node returns a copy of a published record under its own alias, with its samples moved by up to 2 %; ten nodes are
slow. From 1,000 folders to the fleet report and every page of the site nothing is left out. Three passes, each from an
empty data folder; CPU seconds beside wall seconds, and what lies on disk afterwards.
"""

import argparse
import io
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from runner.base.stats import median_interval
from runner.cli.fleet_view import fleet_report
from runner.entry.read import read_all
from runner.fleet.campaign import Campaign, CampaignJob, JobProgress
from runner.fleet.folder import Folder
from runner.fleet.gathering import gather_records
from runner.history.campaigns import distributions, sentence
from runner.pages.render import render
from runner.record.model import Record
from runner.record.store import Store

ROOT = Path(__file__).parents[1]
SLOW, PASSES = 10, 3


def example() -> Record:
    """The newest published record of the entry on bandwidth."""
    records = list(Store(ROOT / "site_data").records(runbook="nvlink-bandwidth"))
    return max(records, key=lambda record: record.started_at)


def returned(folder: Folder, nodes: int) -> Campaign:
    """A campaign whose jobs are over, and what its nodes left in its folder."""
    source, base = random.Random(0), example()
    jobs = tuple(
        CampaignJob(
            key=f"node-{number:06x}",
            nodes=(f"gpu{number:04}",),
            aliases=(f"node-{number:06x}",),
            entries=(base.runbook.id,),
            progress=JobProgress.OVER,
            job_id=str(number + 1),
            state="COMPLETED",
        )
        for number in range(nodes)
    )
    campaign = Campaign(
        id="20261125-000000-cafe", created_at=datetime.now(UTC), runbooks=ROOT / "runbooks",
        entries=(base.runbook.id,), arguments=(), code=base.code, home_python="python3", minutes=60, jobs=jobs,
    )  # fmt: skip
    folder.save(campaign)
    for number, job in enumerate(jobs):
        factor = (0.8 if number < SLOW else 1.0) * source.uniform(0.98, 1.02)
        steps = tuple(
            step.model_copy(
                update={
                    "measurements": tuple(
                        one.model_copy(
                            update={
                                "value": one.value * factor,
                                "samples": tuple(sample * factor for sample in one.samples),
                            }
                        )
                        if one.unit == "B/s"
                        else one
                        for one in step.measurements
                    )
                }
            )
            for step in base.steps
        )
        record = base.model_copy(
            update={
                "run_id": f"{number:012x}",
                "campaign": campaign.id,
                "node_alias": job.key,
                "steps": steps,
            }
        )
        Store(folder.place(job) / "data", ()).save(record)
    return campaign


def timed_pass(campaign: Campaign, folder: Folder) -> tuple[float, float, float]:
    """Seconds to take in, to judge and report, to render every page."""
    runbooks = read_all(ROOT / "runbooks")
    with tempfile.TemporaryDirectory() as data:
        began = time.perf_counter()
        gathered = gather_records(campaign, folder, Path(data))
        taken = time.perf_counter()
        found = distributions(gathered.records)
        out = io.StringIO()
        fleet_report(Console(file=out, width=150), campaign.id, gathered, found)
        judged = time.perf_counter()
        records = list(Store(Path(data)).records())
        pages = render(runbooks, records, datetime.now(UTC), ROOT / "kb" / "_templates")
        rendered = time.perf_counter()
    assert len(records) == len(campaign.jobs)
    assert any(f"{SLOW} of {len(records)} nodes are" in (sentence(one) or "") for one in found)
    assert pages
    return taken - began, judged - taken, rendered - judged


def main() -> None:
    """Print each part's median and the whole with its interval."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000, metavar="N")
    nodes = parser.parse_args().nodes
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name) / "campaign")
        campaign = returned(folder, nodes)
        began = time.process_time()
        passes = [timed_pass(campaign, folder) for _ in range(PASSES)]
        cpu_s = (time.process_time() - began) / PASSES
        kept = [path for path in folder.path.rglob("*") if path.is_file()]
        size, own = sum(path.stat().st_size for path in kept), (folder.path / "campaign.json").stat().st_size
    for part, seconds in zip(
        ("take in", "judge and report", "render"), zip(*passes, strict=True), strict=True
    ):
        print(f"{part:17} {sorted(seconds)[PASSES // 2]:6.2f} s")
    print(
        f"campaign's folder: {len(kept)} files, {size / 2**20:.1f} MiB; campaign.json {own / 2**10:.0f} KiB"
    )
    whole = [sum(one) for one in passes]
    interval = median_interval(whole)
    assert interval is not None
    print(
        f"{nodes} records in all {sorted(whole)[PASSES // 2]:.2f} s [{interval.low:.2f} … {interval.high:.2f}], "
        f"{cpu_s:.2f} s of CPU, {PASSES} passes"
    )


if __name__ == "__main__":
    main()
