"""Runs a campaign: chooses nodes, submits a job for each, follows the jobs to their ends, brings results home."""

import base64
import binascii
import io
import math
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from runner.entry.model import Runbook
from runner.errors import InputError, StoreError
from runner.evidence.judge import describe_exit
from runner.evidence.record import Code
from runner.evidence.stamp import Stamp
from runner.launch.campaign import (
    CODE,
    Campaign,
    Folder,
    Job,
    JointSteps,
    Progress,
    cluster_alias,
    new_campaign_id,
)
from runner.launch.slurm import ControllerAwayError, Slurm, SlurmError, Wish
from runner.launch.slurm_script import MEANINGS, RESULTS, Task, batch_script
from runner.launch.slurm_text import ClusterNode, JobEnd, QueuedJob

_FIRST_POLL_S, _LONGEST_POLL_S, _POLL_GROWTH = 0.1, 5.0, 1.2
_PATIENCE_S = 900.0
_SPARE_MINUTES = 5
_SAVE_EVERY_S = 1.0
_BRING_WITHIN_S = 120.0
_STUCK = ("ReqNodeNotAvail", "Nodes required for job are DOWN", "BadConstraints", "NodeDown")


class FleetObserver(Protocol):
    """Who wants to know how a campaign is getting on."""

    def job_changed(self, job: Job, said: str) -> None:
        """A job was submitted, started, has something new to say, or is over."""

    def trouble(self, message: str) -> None:
        """Something is wrong that does not end the campaign."""


@dataclass(frozen=True)
class Order:
    """What a campaign shall run, and how. `count` and `nodelist`: at most one of them.

    `arguments` are those of `runbook run` on each node; `joint` the steps that need several nodes at once.
    """

    runbooks: Path
    entries: tuple[Runbook, ...]
    arguments: tuple[str, ...]
    longest_s: float
    joint: tuple[JointSteps, ...]
    code: Code
    archive: bytes = field(repr=False)
    alias_key: bytes = field(repr=False)
    home_python: str
    wish: Wish = field(default_factory=Wish)
    count: int | None = None
    nodelist: str | None = None
    shared: bool = True
    prefix: str = ""
    python: str | None = None
    start_within_s: float = 3600.0


def choose_nodes(slurm: Slurm, order: Order) -> tuple[ClusterNode, ...]:
    """The nodes of a campaign: those named, or so many of the partition, idle ones first, or all of it.

    Raises:
        InputError: a node that is not there, or more than there are.
    """
    known = {node.name: node for node in slurm.nodes()}
    if order.nodelist is not None:
        names = slurm.expand(order.nodelist)
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(f"the cluster has no node {', '.join(missing)}; `sinfo -N` lists those it has")
        return tuple(known[name] for name in names)
    nodes = [known[name] for name in slurm.partition(order.wish.partition) if name in known]
    if order.count is None:
        return tuple(nodes)
    if not 1 <= order.count <= len(nodes):
        raise InputError(f"--nodes {order.count}: the partition has {len(nodes)}")
    best = sorted(nodes, key=lambda node: (not node.fit, not node.idle))[: order.count]
    return tuple(node for node in nodes if node in best)


def prepare(order: Order, base: Path, slurm: Slurm) -> tuple[Folder, Campaign]:
    """Choose the nodes and write down what shall run on them; nothing is submitted yet.

    Raises:
        InputError: nodes that are not there.
        SlurmError: Slurm does not answer.
        StoreError: the campaign's folder cannot be written.
    """
    campaign = _new_campaign(order, choose_nodes(slurm, order))
    folder = Folder(base / campaign.id)
    folder.save(campaign)
    try:
        (folder.path / CODE).write_bytes(order.archive)
    except OSError as error:
        raise StoreError(f"cannot write {folder.path / CODE}: {error.strerror}") from error
    return folder, campaign


def submit(campaign: Campaign, folder: Folder, slurm: Slurm, observer: FleetObserver) -> Campaign:
    """Submit the jobs that have not been yet; one whose node cannot take it is refused at once, with the reason.

    Raises:
        SlurmError: Slurm does not answer; what was submitted until then is written down.
    """
    archive = (folder.path / CODE).read_bytes()
    known = {node.name: node for node in slurm.nodes()}
    saved = time.monotonic()
    try:
        for job in campaign.jobs:
            if job.job_id is not None or not job.live:
                continue
            unfit = [node for name in job.nodes if (node := known.get(name)) and not node.fit]
            done = _refused(job, unfit[0]) if unfit else _submitted(campaign, job, folder, slurm, archive)
            campaign = campaign.with_job(done)
            observer.job_changed(done, "")
            if time.monotonic() - saved > _SAVE_EVERY_S:
                folder.save(campaign)
                saved = time.monotonic()
    finally:
        folder.save(campaign)
    return campaign


def _submitted(campaign: Campaign, job: Job, folder: Folder, slurm: Slurm, archive: bytes) -> Job:
    place = folder.place(job)
    place.mkdir(parents=True, exist_ok=True)
    joint = next((one for one in campaign.joint if job.joint and one.entry == job.entries[0]), None)
    steps = [word for step in (joint.steps if joint else ()) for word in ("--step", step)]
    task = Task(
        stamp=Stamp(
            campaign=campaign.id,
            node_alias=job.aliases[0],
            code=campaign.code,
            members=job.aliases if job.joint else (),
        ),
        key=f"{job.round}-{job.key}",
        place=str(place.resolve()) if campaign.shared else None,
        code=str((folder.path / CODE).resolve()) if campaign.shared else None,
        archive=archive,
        arguments=(*job.entries, *campaign.arguments, *steps),
        prefix=campaign.prefix,
        python=campaign.python,
        home_python=campaign.home_python,
        joint=job.joint,
    )
    wish = Wish(campaign.partition, campaign.account, campaign.gpus, campaign.minutes)
    try:
        return job.model_copy(
            update={"job_id": slurm.submit(batch_script(task), campaign.job_name, job.nodes, wish)}
        )
    except ControllerAwayError:
        raise
    except SlurmError as error:
        return job.model_copy(update={"progress": Progress.REFUSED, "reason": str(error)})


def _refused(job: Job, node: ClusterNode) -> Job:
    said = f"not started: Slurm has its node as {node.state}" + (f", {node.reason}" if node.reason else "")
    return job.model_copy(update={"progress": Progress.REFUSED, "reason": said})


def _new_campaign(order: Order, nodes: Sequence[ClusterNode]) -> Campaign:
    entries = tuple(runbook.id for runbook in order.entries)
    aliases = {node.name: cluster_alias(node.name, order.alias_key) for node in nodes}
    return Campaign(
        id=new_campaign_id(),
        created_at=datetime.now(UTC),
        runbooks=order.runbooks.resolve(),
        entries=entries,
        arguments=order.arguments,
        code=order.code,
        shared=order.shared,
        prefix=order.prefix,
        python=order.python,
        home_python=order.home_python,
        partition=order.wish.partition,
        account=order.wish.account,
        gpus=order.wish.gpus,
        minutes=order.wish.minutes or math.ceil(order.longest_s / 60) + _SPARE_MINUTES,
        start_within_s=order.start_within_s,
        joint=order.joint,
        jobs=tuple(
            Job(key=alias, nodes=(name,), aliases=(alias,), entries=entries)
            for name, alias in aliases.items()
        ),
    )


def follow(
    campaign: Campaign,
    folder: Folder,
    slurm: Slurm,
    observer: FleetObserver,
    pause: Callable[[float], None] = time.sleep,
) -> Campaign:
    """Look again and again until every job is over, joint jobs included.

    Raises:
        ControllerAwayError: the controller has not answered for a quarter of an hour.
    """
    poll, away_since = _FIRST_POLL_S, None
    while True:
        try:
            campaign = refresh(campaign, folder, slurm, observer)
        except ControllerAwayError as error:
            now = time.monotonic()
            if away_since is None:
                away_since = now
                observer.trouble(f"{error}; waiting for it, jobs go on without it")
            if now - away_since > _PATIENCE_S:
                raise
        else:
            away_since = None
            if not any(job.live for job in campaign.jobs):
                return campaign
        pause(poll)
        poll = min(_LONGEST_POLL_S, poll * _POLL_GROWTH)


def refresh(campaign: Campaign, folder: Folder, slurm: Slurm, observer: FleetObserver) -> Campaign:
    """One look at every job that was not over; results of those that now are are brought here.

    Raises:
        ControllerAwayError: the controller does not answer; nothing has changed then.
    """
    before = campaign
    live = [job for job in campaign.jobs if job.live]
    queue = slurm.queue(campaign.job_name) if live else {}
    waiting = [job for job in live if (q := queue.get(job.job_id or "")) and q.state == "PENDING"]
    stuck = [job for job in waiting if any(sign in queue[job.job_id or ""].reason for sign in _STUCK)]
    known = {node.name: node for node in slurm.nodes()} if stuck else {}
    for job in live:
        now = _seen(campaign, job, folder, slurm, queue.get(job.job_id or ""), known)
        said = folder.last_words(now) if now.progress is Progress.RUNNING else ""
        if now != job or said:
            observer.job_changed(now, said)
        campaign = campaign.with_job(now)
    campaign = _joined(_brought(campaign, folder, slurm, observer), folder, slurm, observer)
    if campaign != before:
        folder.save(campaign)
    return campaign


def _seen(
    campaign: Campaign,
    job: Job,
    folder: Folder,
    slurm: Slurm,
    queued: QueuedJob | None,
    known: dict[str, ClusterNode],
) -> Job:
    if queued is None:
        noted = campaign.shared and folder.exit_status(job) is not None
        reason = (
            None if noted else "Slurm no longer knows its job (MinJobAge), and it left no note of its end"
        )
        return job.model_copy(update={"progress": Progress.OVER, "state": "UNKNOWN", "reason": reason})
    if queued.state == "PENDING":
        return _pending(campaign, job, slurm, queued, known)
    if queued.live:
        return job.model_copy(update={"progress": Progress.RUNNING, "state": queued.state})
    end = slurm.job_end(queued.job_id) or JobEnd(queued.state, queued.reason, 0, 0, "unknown")
    return job.model_copy(
        update={"progress": Progress.OVER, "state": end.state, "reason": why_no_answer(end)}
    )


def _pending(
    campaign: Campaign, job: Job, slurm: Slurm, queued: QueuedJob, known: dict[str, ClusterNode]
) -> Job:
    unfit = [node for name in job.nodes if (node := known.get(name)) and not node.fit]
    age = (datetime.now(UTC) - campaign.created_at).total_seconds()
    if unfit:
        refused = _refused(job, unfit[0])
    elif age > campaign.start_within_s:
        said = f"never started within {campaign.start_within_s:g} s; Slurm's reason: {queued.reason}"
        refused = job.model_copy(update={"progress": Progress.REFUSED, "reason": said})
    else:
        return job.model_copy(update={"progress": Progress.WAITING, "state": queued.state})
    slurm.cancel(campaign.job_name, [queued.job_id])
    return refused


def why_no_answer(end: JobEnd) -> str | None:
    """Why a job that ended gave no answer about its node; None where its script ran to its end."""
    match end.state.split()[0].rstrip("+"):
        case "COMPLETED":
            return None
        case "CANCELLED":
            return "its job was cancelled from outside this campaign"
        case "TIMEOUT":
            return f"its job reached its time limit ({end.time_limit}); --time sets another, in minutes"
        case "NODE_FAIL":
            return "its node failed while the job ran (Slurm: NODE_FAIL)"
        case "OUT_OF_MEMORY":
            return "its job was ended for the memory it took (Slurm: OUT_OF_MEMORY)"
        case "FAILED":
            status = -end.signal if end.signal else end.exit_status
            return f"its job failed: {MEANINGS.get(status) or describe_exit(status)}"
        case other:
            return f"its job ended as {other} (Slurm's reason: {end.reason})"


def _brought(campaign: Campaign, folder: Folder, slurm: Slurm, observer: FleetObserver) -> Campaign:
    """Without shared files: fetch the results of jobs that are over, each by a short job on its node."""
    for job in campaign.jobs:
        if campaign.shared or job.fetched or job.progress is not Progress.OVER or job.job_id is None:
            continue
        where = f"{RESULTS}/{campaign.id}/{job.round}-{job.key}"
        wish = Wish(campaign.partition, campaign.account, campaign.gpus, 5)
        try:
            taken = slurm.bring(
                job.nodes[0],
                campaign.job_name,
                f'tar -C "{where}" -cz . | base64',
                wish,
                _BRING_WITHIN_S,
            )
            _unpack(base64.b64decode(taken, validate=False), folder.place(job))
        except ControllerAwayError:
            raise
        except (SlurmError, OSError, tarfile.TarError, binascii.Error, EOFError) as error:
            lost = job.reason or f"its results could not be fetched: {error}"
            campaign = campaign.with_job(job.model_copy(update={"fetched": True, "reason": lost}))
            observer.trouble(f"{job.key}: {lost}")
        else:
            campaign = campaign.with_job(job.model_copy(update={"fetched": True}))
    return campaign


def _unpack(data: bytes, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        # Nothing outside the folder, no devices, no links that leave it: a node may return anything.
        archive.extractall(place, filter="data")


def _joined(campaign: Campaign, folder: Folder, slurm: Slurm, observer: FleetObserver) -> Campaign:
    """Once every node is done by itself, submit the joint jobs over those that came through."""
    first = [job for job in campaign.jobs if not job.joint and job.round == 1]
    known = {job.key for job in campaign.jobs if job.joint}
    wanted = [joint for joint in campaign.joint if f"joint-{joint.entry}" not in known]
    if not wanted or any(job.live for job in campaign.jobs):
        return campaign
    through = [job for job in first if job.progress is Progress.OVER and job.reason is None]
    for joint in wanted:
        job = Job(
            key=f"joint-{joint.entry}",
            nodes=tuple(job.nodes[0] for job in through),
            aliases=tuple(job.aliases[0] for job in through) or ("none",),
            entries=(joint.entry,),
            joint=True,
        )
        if len(through) < joint.nodes:
            said = f"its joint steps need {joint.nodes} nodes, {len(through)} came through"
            job = job.model_copy(update={"progress": Progress.REFUSED, "reason": said})
            observer.job_changed(job, "")
        campaign = campaign.with_job(job)
    return submit(campaign, folder, slurm, observer)


def again(campaign: Campaign, suspects: dict[str, tuple[str, ...]]) -> Campaign:
    """The campaign with a second round: each suspect (by alias) runs the entries in which it stood out once more."""
    for job in campaign.jobs:
        if job.joint or job.round != 1 or job.key not in suspects:
            continue
        rerun = Job(key=job.key, nodes=job.nodes, aliases=job.aliases, entries=suspects[job.key], round=2)
        if not any((old.key, old.round) == (job.key, 2) for old in campaign.jobs):
            campaign = campaign.with_job(rerun)
    return campaign


def give_up(campaign: Campaign, folder: Folder, slurm: Slurm, observer: FleetObserver) -> Campaign:
    """Cancel every job of the campaign that is not over, and wait until none of them runs any more."""
    slurm.cancel(campaign.job_name)
    for job in campaign.jobs:
        if job.live:
            over = job.model_copy(
                update={
                    "progress": Progress.OVER,
                    "state": "CANCELLED",
                    "reason": "cancelled here: interrupted",
                }
            )
            campaign = campaign.with_job(over)
            observer.job_changed(over, "")
    folder.save(campaign)
    while any(job.live for job in slurm.queue(campaign.job_name).values()):
        time.sleep(_FIRST_POLL_S)
    return campaign
