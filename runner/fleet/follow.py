"""Follows the jobs of a campaign to their end, fetches their results, and cancels jobs."""

import base64
import binascii
import contextlib
import tarfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from runner.fleet.archive import unpack
from runner.fleet.campaign import Campaign, CampaignJob, JobProgress
from runner.fleet.commands import ControllerAwayError, Slurm, SlurmError
from runner.fleet.retry import FIRST_POLL_S, Fleet, poll_intervals
from runner.fleet.script import MEANINGS, NOT_OURS, fetch_command
from runner.fleet.submit import accepted, refused_by_node, submit
from runner.fleet.text import ClusterNode, JobEnd, QueuedJob
from runner.record.judge import describe_exit

_BRING_WITHIN_S = 120.0
# Above Slurm's KillWait (30 s by default) plus the duration of a node's epilog.
_END_WITHIN_S = 120.0
_FORGOTTEN = "Slurm no longer knows its job (MinJobAge), and the job left no note of its end"
_STUCK = ("ReqNodeNotAvail", "Nodes required for job are DOWN", "BadConstraints", "NodeDown")


def follow_jobs(campaign: Campaign, fleet: Fleet) -> Campaign:
    """Poll until every job is over, including joint jobs.

    Raises:
        ControllerAwayError: the controller has not answered for 15 minutes.
    """
    polls = poll_intervals()
    while True:
        campaign = fleet.answered(partial(refresh, campaign, fleet))
        if not any(job.live for job in campaign.jobs):
            return campaign
        fleet.pause(next(polls))


def refresh(campaign: Campaign, fleet: Fleet) -> Campaign:
    """Poll every unfinished job once; fetch the results of those that have finished.

    Raises:
        ControllerAwayError: the controller does not answer; nothing has changed.
    """
    before, folder, slurm = campaign, fleet.folder, fleet.slurm
    queue = slurm.queue(campaign.job_name) if any(job.live for job in campaign.jobs) else {}
    campaign = _one_each(campaign, slurm, queue)
    jobs = _told_apart(campaign, queue)
    # A task without a job id has not been submitted; `submit` does that.
    live = [job for job in campaign.jobs if job.live and job.job_id is not None]
    waiting = [q.reason for job in live if (q := jobs.get(job.tag)) and q.state == "PENDING"]
    stuck = any(sign in reason for reason in waiting for sign in _STUCK)
    known = slurm.nodes() if stuck else {}
    for job in live:
        now = _seen(campaign, job, fleet, jobs.get(job.tag), known)
        said = folder.last_words(now) if now.progress is JobProgress.RUNNING else ""
        if now != job or said:
            fleet.observer.job_changed(now, said)
        campaign = campaign.with_job(now)
    campaign = _joined(_brought(campaign, fleet), fleet)
    if campaign != before:
        folder.save(campaign)
    return campaign


def _seen(
    campaign: Campaign,
    job: CampaignJob,
    fleet: Fleet,
    queued: QueuedJob | None,
    known: Mapping[str, ClusterNode],
) -> CampaignJob:
    if queued is None:
        # Without shared files the note is still on the node and is fetched later.
        noted = not campaign.shared or fleet.folder.exit_status(job) is not None
        return job.over("UNKNOWN", None if noted else _FORGOTTEN)
    if queued.state == "PENDING":
        given_up = refused_by_node(job, known) or _refused_for_its_age(campaign, job, queued)
        if given_up is None:
            return job.model_copy(update={"progress": JobProgress.WAITING, "state": queued.state})
        fleet.slurm.cancel(campaign.job_name, [queued.job_id])
        return given_up
    if queued.live:
        return job.model_copy(update={"progress": JobProgress.RUNNING, "state": queued.state})
    end = fleet.slurm.job_end(queued.job_id) or JobEnd(queued.state, queued.reason, 0, 0, "unknown")
    return job.over(end.state, why_no_answer(end))


def _refused_for_its_age(campaign: Campaign, job: CampaignJob, queued: QueuedJob) -> CampaignJob | None:
    # Joint jobs and second runs are submitted long after the start of the campaign.
    age = (datetime.now(UTC) - (job.submitted_at or campaign.created_at)).total_seconds()
    if age <= campaign.start_within_s:
        return None
    return job.refused(f"did not start within {campaign.start_within_s:g} s; Slurm's reason: {queued.reason}")


def _one_each(campaign: Campaign, slurm: Slurm, queue: Mapping[str, QueuedJob]) -> Campaign:
    """The campaign with one running job per task; other jobs of the same task are cancelled.

    A second job exists if Slurm accepted a submission after the campaign had stopped waiting for the answer, or had
    received a refusal for a retry.
    """
    found: dict[str, list[QueuedJob]] = {}
    for one in queue.values():
        found.setdefault(one.tag, []).append(one)
    jobs, second = [], []
    for job in campaign.jobs:
        same = found.get(job.tag, [])
        # A task that was refused without a job id may still have been accepted.
        unsure = job.live or (job.progress is JobProgress.REFUSED and job.job_id is None)
        kept = (accepted(job, same) or job) if unsure else job
        jobs.append(kept)
        # A COMPLETING job is already being terminated.
        alive = [one.job_id for one in same if one.live and one.state != "COMPLETING"]
        second += [job_id for job_id in alive if job_id != kept.job_id]
    if second:
        slurm.cancel(campaign.job_name, second)
    return campaign.model_copy(update={"jobs": tuple(jobs)})


def _told_apart(campaign: Campaign, queue: Mapping[str, QueuedJob]) -> Mapping[str, QueuedJob]:
    """Tag → the job of this task in the queue.

    A controller that crashes forgets the last accepted jobs, and reuses their ids. A comment that is not a task's tag
    was changed by others, or comes from a version that set none.
    """
    tags = {job.tag for job in campaign.jobs}
    return {
        job.tag: one
        for job in campaign.jobs
        if (one := queue.get(job.job_id or "")) and (one.tag == job.tag or one.tag not in tags)
    }


def why_no_answer(end: JobEnd) -> str | None:
    """Why a finished job returned no result; None if its script ran to its end."""
    match end.state.split()[0].rstrip("+"):
        case "COMPLETED":
            return None
        case "CANCELLED":
            return "its job was cancelled from outside this campaign"
        case "TIMEOUT":
            return (
                f"its job reached its time limit ({end.time_limit}); set a longer one with --time, in minutes"
            )
        case "NODE_FAIL":
            return "its node failed while the job ran (Slurm: NODE_FAIL)"
        case "OUT_OF_MEMORY":
            return "its job exceeded its memory limit (Slurm: OUT_OF_MEMORY)"
        case "FAILED":
            status = -end.signal if end.signal else end.exit_status
            return f"its job failed: {MEANINGS.get(status) or describe_exit(status)}"
        case other:
            return f"its job ended as {other} (Slurm's reason: {end.reason})"


def _brought(campaign: Campaign, fleet: Fleet) -> Campaign:
    """Without shared files: fetch the results of finished jobs, each with a short job on its node."""
    for job in campaign.jobs:
        if campaign.shared or job.fetched or job.progress is not JobProgress.OVER or job.job_id is None:
            continue
        command = fetch_command(campaign.id, job.tag)
        wish = replace(campaign.wish, minutes=5)
        lost = job.reason
        try:
            taken = fleet.slurm.bring(job.nodes[0], campaign.job_name, command, wish, _BRING_WITHIN_S)
            unpack(base64.b64decode(taken, validate=False), fleet.folder.place(job))
        except ControllerAwayError:
            raise
        except (SlurmError, OSError, tarfile.TarError, zlib.error, binascii.Error, EOFError) as error:
            refused_there = isinstance(error, SlurmError) and error.status == NOT_OURS
            said = MEANINGS[NOT_OURS] if refused_there else str(error)
            lost = job.reason or f"its results could not be fetched: {said}"
            fleet.observer.trouble(f"{job.key}: {lost}")
        campaign = campaign.with_job(job.model_copy(update={"fetched": True, "reason": lost}))
    return campaign


def _joined(campaign: Campaign, fleet: Fleet) -> Campaign:
    """Once every single-node job is over, submit the joint jobs over the nodes that succeeded."""
    known = {job.key for job in campaign.jobs if job.joint}
    wanted = [joint for joint in campaign.joint if f"joint-{joint.entry}" not in known]
    if not wanted or any(job.live for job in campaign.jobs):
        return campaign
    first = [job for job in campaign.jobs if not job.joint and job.round == 1]
    through = [job for job in first if job.progress is JobProgress.OVER and job.reason is None]
    for joint in wanted:
        job = CampaignJob(
            key=f"joint-{joint.entry}",
            nodes=tuple(job.nodes[0] for job in through),
            aliases=tuple(job.aliases[0] for job in through) or ("none",),
            entries=(joint.entry,),
            joint=True,
        )
        if len(through) < joint.nodes:
            job = job.refused(f"its joint steps need {joint.nodes} nodes, only {len(through)} succeeded")
            fleet.observer.job_changed(job, "")
        campaign = campaign.with_job(job)
    return submit(campaign, fleet)


def cancel_jobs(campaign: Campaign, fleet: Fleet, end_within_s: float = _END_WITHIN_S) -> Campaign:
    """Cancel every unfinished job of the campaign, and wait until none of them is running.

    On a dead node a job stays COMPLETING forever, so the wait is limited (seconds).
    """
    for job in campaign.jobs:
        if job.live:
            over = job.over("CANCELLED", "cancelled by an interrupt of this command")
            campaign = campaign.with_job(over)
            fleet.observer.job_changed(over, "")
    fleet.folder.save(campaign)
    deadline = time.monotonic() + end_within_s
    cancelled: set[str] | None = None
    while True:
        # A controller that does not answer now may do so before the time is over, and a job whose sbatch was killed may
        # appear late.
        with contextlib.suppress(ControllerAwayError):
            left = {job.job_id for job in fleet.slurm.queue(campaign.job_name).values() if job.live}
            if cancelled is None or not left <= cancelled:
                fleet.slurm.cancel(campaign.job_name)
                cancelled = left | (cancelled or set())
            elif not left:
                break
        if time.monotonic() >= deadline:
            fleet.observer.trouble(
                f"some jobs of this campaign are still running; list them with squeue --name={campaign.job_name}"
            )
            break
        time.sleep(FIRST_POLL_S)
    return campaign
